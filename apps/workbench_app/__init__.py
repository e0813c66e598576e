"""The Gradio app: the same requests on paged and on contiguous memory, live, side by side."""
