# %% [markdown]
# # 90. Pages of a sequence
#
# A lesson to test the course with. How many pages does a sequence take?

# %%
from workbench.course import check, predict, progress, quiz, registry, reveal, show_source

registry.register(90, "tests.course.data.lesson90")
from tests.course.data import lesson90

# %%
predict("90.a", None, "pages")

# %%
reveal("90.a", lesson90.pages_of(100, 16), "pages")


# %%
def pages_of(num_tokens: int, page_size: int) -> int:
    """Pages that so many tokens take."""
    ### BEGIN SOLUTION divide, and round up
    return -(-num_tokens // page_size)
    ### END SOLUTION


# %%
check("90.1", pages_of)

# %%
show_source(lesson90.pages_of)

# %% tags=["raises-exception"]
[][0]

# %%
question = quiz("90", seed=3)
question

# %%
question.answer(question.expected)

# %%
progress()
