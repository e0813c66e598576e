"""Requests to start from. The bundled model continues old stories in five languages, so they are story openings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_EN = (
    "The old lighthouse keeper had one daughter, and every evening she",
    "There was once a tailor who could not sleep, because",
    "On the last night of the fair, the clockmaker saw a stranger who",
    "Far beyond the mill there stood a house that nobody",
    "When the snow had covered the village, the two brothers",
    "The captain looked at the map for a long time before he",
    "A little fox lived under the roots of an oak, and",
    "My aunt had a garden behind the church, where",
    "The letter was short, and when she had read it, she",
    "In the middle of the forest the road divided, and",
    "The king had promised a reward to anyone who",
    "It was raining when the coach stopped before the inn, and",
)
_DE = (
    "Es war einmal ein armer Müller, der hatte drei Töchter, und",
    "Am Rande des Waldes stand ein kleines Haus, darin",
    "Der alte Fischer fuhr jeden Morgen hinaus auf das Meer, und",
    "Als der Winter kam, ging das Mädchen in die Stadt und",
)
_FR = (
    "Il y avait autrefois dans un petit village une vieille femme qui",
    "Le capitaine regarda longtemps la mer, puis il",
    "Au fond du jardin se trouvait une porte que personne",
)
_DA = (
    "Der var engang en lille dreng, som boede ved havet, og",
    "Den gamle kone sad ved vinduet og",
    "Langt ude i skoven stod et træ, der",
)
_IT = (
    "C'era una volta un falegname che aveva una piccola bottega, e",
    "La bambina aprì la finestra e vide",
    "In una notte d'inverno il vecchio soldato",
)

_LONG = (
    "The storm had lasted for three days. The boats were drawn up on the sand, the nets hung stiff with salt "
    "before the doors, and in the whole village there was not one man who remembered such a sea. In the "
    "evening, when the women had lit the lamps, a stranger came down the road from the hills. He carried a "
    "small box under his arm, and he knocked at the first house. An old woman opened the door, looked at him "
    "for a long time, and",
    "In the town where I was born there was a street so narrow that two people could not pass each other in it"
    " without one of them stepping into a doorway. In one of these doorways sat a man who mended clocks. "
    "Children were afraid of him, for he never spoke, and it was said that he could hear when a clock was "
    "about to stop, even in a house at the other end of the town. One morning the great bell of the church was"
    " silent, and the mayor himself went to him and",
    "Vor vielen Jahren lebte in einem Tal zwischen hohen Bergen ein Bauer, der hatte einen Hof, zwei Kühe und "
    "einen Sohn. Der Sohn war fleißig und stark, aber er sprach nur selten, und wenn er sprach, so fragte er "
    "nach dem Land hinter den Bergen. Der Vater wusste darauf keine Antwort. Als nun der Frühling kam und der "
    "Schnee von den Wegen schmolz, nahm der Sohn seinen Stock, küsste die Mutter und",
    "Dans une maison au bord de la rivière vivait un homme qui connaissait le nom de toutes les étoiles. Le "
    "jour, il dormait; la nuit, il montait sur le toit avec sa lampe et ses livres, et les enfants du village "
    "le regardaient de loin. Un soir d'automne, une petite fille frappa à sa porte et lui dit que l'étoile au-"
    "dessus de sa maison avait disparu. L'homme prit son manteau, ferma son livre et",
)


@dataclass(frozen=True)
class Preset:
    """A starting point: requests and the settings that make its point visible. Fields as in `parse_settings`."""

    name: str
    point: str
    prompts: str
    output_tokens: int
    pool_tokens: int = 2048
    block_size: int = 16
    max_model_len: int = 512
    policy: str = "max"
    temperature: float = 0.8
    seed: int = 0
    texts: str = "one"
    texts_per_prompt: int = 4
    prefix_caching: bool = False
    host_tokens: int = 0
    preemption: str = "recompute"
    growing: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """What it fills in, by the name of the field."""
        return {name: getattr(self, name) for name in FIELDS}


#: The settings, in the order of `workbench_app.settings.parse_settings`.
FIELDS = (
    "prompts",
    "output_tokens",
    "pool_tokens",
    "block_size",
    "policy",
    "max_model_len",
    "temperature",
    "seed",
    "texts",
    "texts_per_prompt",
    "prefix_caching",
    "host_tokens",
    "preemption",
    "growing",
)


def _lines(prompts: list[str], lengths: list[int]) -> str:
    """Prompts with output lengths in turn, so that requests end at different times, as they do in life."""
    return "\n".join(f"{prompt} | {lengths[i % len(lengths)]}" for i, prompt in enumerate(prompts))


_MIXED = [prompt for group in zip(_DE, (*_FR, _FR[0]), (*_DA, _DA[0]), (*_IT, _IT[0]), strict=True) for prompt in group]
_BURST = [*_EN, *_DE, *_FR, *_DA, *_IT]

#: Some 300 tokens: more than half of what a step computes, so that most requests come when its pages are there.
_NOTICE = (
    "You are the keeper of the old library at the end of the harbour. The house has three floors, a stove, and more "
    "books than anybody has counted. Every evening, when the lamps are lit, a visitor comes in from the rain and asks "
    "for one story, and you tell it. These are the rules of the house. Begin with the weather, for every story in "
    "this town begins with the weather. Answer in the manner of the country from which the visitor comes, and do not "
    "hurry: the stove is warm and the night is long. Let nobody in the story be called by a name; say the miller, the "
    "sister, the man with the lantern. If there is a journey, let it take three days. If there is a door, let it be "
    "opened only once. Animals may speak, but they do not explain what they mean. Nobody becomes rich without giving "
    "something away, and whoever was proud at the beginning shall have lost a hat by the end. Do not say what the "
    "story teaches; the visitor will find that on the way home. When you have come to the end, close the book, put "
    "wood on the fire, and ask what the sea is like tonight. The visitor of this evening says: "
)
_WISHES = (
    "tell me of the sea, and",
    "tell me of a king who",
    "tell me how the mill",
    "tell me of two brothers, for",
    "tell me why the snow",
    "tell me of the road that",
    "tell me of a fox, and",
    "tell me of the bell which",
)

PRESETS = {
    "class": Preset(
        "A class of short chats",
        "Twelve short requests at once. Watch how much each side holds for them.",
        _lines(list(_EN), [40, 64, 28, 52]),
        48,
    ),
    "long": Preset(
        "Long prompts",
        "A long prompt fills its pages in a few steps, because its tokens are computed many at a time.",
        _lines([*_LONG, *_LONG[:2]], [60, 90, 75]),
        75,
    ),
    "languages": Preset(
        "Mixed languages",
        "The same model continues German, French, Danish and Italian; pages do not care.",
        _lines(_MIXED[:13], [48, 72, 36]),
        48,
    ),
    "overflow": Preset(
        "A burst that overflows the pool",
        "More requests than memory. Who has to wait, and how much of the held memory is really used?",
        _lines(_BURST, [140, 100, 180, 120, 160]),
        140,
    ),
    "samples": Preset(
        "Four samples of one prompt",
        "One request (n=4) asks for four continuations of its prompt. Paged memory stores the prompt once, and all "
        "four share its pages. Contiguous memory can't share: it refuses, and the same four texts are written there "
        "by four separate requests, each with a copy of the prompt.",
        f"{_LONG[0]} | 96 x4",
        96,
        pool_tokens=1024,
    ),
    "beams": Preset(
        "Beam search",
        "Each request follows its four most likely texts at once. They split and die from step to step, and share all "
        "pages up to where they part; a page that two of them write to is copied first. Contiguous memory refuses: "
        "nothing can stand in for a beam search there.",
        "\n".join(f"{prompt} | 48 b4" for prompt in (_LONG[0], _EN[1], _DE[0])),
        48,
        pool_tokens=1024,
        temperature=0.0,
    ),
    "prefixes": Preset(
        "One beginning for all",
        "Eight requests begin with the same long instruction. With prefix caching, paged memory keeps its full pages: "
        "whoever comes when they have been computed takes them over, and computes and stores only what is different. "
        "Contiguous memory computes and stores the instruction eight times.",
        "\n".join(f"{_NOTICE}{wish} | 48" for wish in _WISHES),
        48,
        pool_tokens=1536,
        prefix_caching=True,
    ),
    "swap": Preset(
        "When memory runs out: swapping",
        "The pool is too small for what it let in. Requests that give way move their pages to a host tier, and back "
        "when there is room. On the right nobody gives way: whoever does not fit has to wait.",
        _lines(_BURST[:14], [120, 160, 90, 140]),
        120,
        pool_tokens=768,
        host_tokens=1024,
        preemption="swap",
    ),
    "three": Preset(
        "Three ways to keep it",
        "A third lane shows what transformers itself does: one padded batch whose cache grows by concatenation.",
        _lines(list(_EN), [40, 64, 28, 52]),
        48,
        pool_tokens=1024,
        growing=True,
    ),
}
DEFAULT_PRESET = "overflow"
