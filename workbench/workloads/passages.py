"""A few sentences of public-domain works, each with its work, and sentence pairs for few-shot prompts (our own)."""

from __future__ import annotations

#: A sentence or two of each work: so few that the project needs no text of anybody else's, enough to vary prompts.
SENTENCES: dict[str, str] = {
    "Jane Austen, Pride and Prejudice": "It is a truth universally acknowledged, that a single man in possession of a "
    "good fortune, must be in want of a wife.",
    "Jane Austen, Emma": "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, "
    "seemed to unite some of the best blessings of existence; and had lived nearly twenty-one years in the world with "
    "very little to distress or vex her.",
    "Jane Austen, Sense and Sensibility": "The family of Dashwood had long been settled in Sussex. Their estate was "
    "large, and their residence was at Norland Park, in the centre of their property.",
    "Jane Austen, Mansfield Park": "About thirty years ago Miss Maria Ward, of Huntingdon, with only seven thousand "
    "pounds, had the good luck to captivate Sir Thomas Bertram, of Mansfield Park, in the county of Northampton.",
    "Jane Austen, Northanger Abbey": "No one who had ever seen Catherine Morland in her infancy would have supposed "
    "her born to be an heroine.",
    "Jane Austen, Persuasion": "Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man who, for his own "
    "amusement, never took up any book but the Baronetage.",
    "Lewis Carroll, Alice's Adventures in Wonderland": "Alice was beginning to get very tired of sitting by her sister "
    "on the bank, and of having nothing to do.",
    "Bram Stoker, Dracula": "Buda-Pesth seems a wonderful place, from the glimpse which I got of it from the train and "
    "the little I could walk through the streets.",
    "Mary Shelley, Frankenstein": "It was on a dreary night of November that I beheld the accomplishment of my toils.",
    "H. C. Andersen, The Tinder-Box": "A soldier came marching along the high road: left, right - left, right. He had "
    "his knapsack on his back, and a sword at his side.",
    "H. C. Andersen, The Little Mermaid": "Far out in the ocean, where the water is as blue as the prettiest "
    "cornflower, and as clear as crystal, it is very, very deep.",
    "H. C. Andersen, The Brave Tin Soldier": "There were once five-and-twenty tin soldiers, who were all brothers, for "
    "they had been made out of the same old tin spoon.",
    "H. C. Andersen, The Little Match-Seller": "It was terribly cold and nearly dark on the last evening of the old "
    "year, and the snow was falling fast.",
    "H. C. Andersen, The Flying Trunk": "There was once a merchant who was so rich that he could have paved the whole "
    "street with gold, and would even then have had enough for a small alley.",
    "H. C. Andersen, The Nightingale": "The story I am going to tell you happened a great many years ago, so it is "
    "well to hear it now before it is forgotten.",
    "H. C. Andersen, The Ugly Duckling": "It was lovely summer weather in the country, and the golden corn, the green "
    "oats, and the haystacks piled up in the meadows looked beautiful.",
    "William Shakespeare, Coriolanus": "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, "
    "speak.",
    "William Shakespeare, Richard III": "Now is the winter of our discontent\nMade glorious summer by this sun of "
    "York.",
}

#: English and German, for prompts in the style of few-shot translation (Kwon et al., Fig. 16, has WMT16 En-De).
TRANSLATIONS: tuple[tuple[str, str], ...] = (
    ("The king had three sons.", "Der König hatte drei Söhne."),
    ("The youngest of them went into the forest.", "Der jüngste von ihnen ging in den Wald."),
    ("There he met an old woman.", "Dort begegnete er einer alten Frau."),
    ("She gave him bread and water.", "Sie gab ihm Brot und Wasser."),
    ("He thanked her and went on.", "Er dankte ihr und ging weiter."),
    ("In the evening he came to a castle.", "Am Abend kam er zu einem Schloss."),
    ("The door was open, and nobody was there.", "Die Tür stand offen, und niemand war da."),
    ("He sat down at the table and ate.", "Er setzte sich an den Tisch und aß."),
    ("Then he heard a voice in the garden.", "Da hörte er eine Stimme im Garten."),
    ("It was the voice of the princess.", "Es war die Stimme der Prinzessin."),
    ("She asked him where he came from.", "Sie fragte ihn, woher er komme."),
    ("I come from the other side of the sea.", "Ich komme von der anderen Seite des Meeres."),
)
