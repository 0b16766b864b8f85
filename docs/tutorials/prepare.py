"""Write the data of a tutorial and, for generative models, a small untrained base model.

    python docs/tutorials/prepare.py TASK FOLDER

The texts of classification and regression are BBC News, from the `demo` extra; the others are made from templates.
"""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tiny_models

from tuneport.folders import write_lines
from tuneport.stages.finetune.embedded import write_bbc_news

Row = dict[str, Any]
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
FIRST_NAMES = "Anna Ben Carla David Elena Farid Grace Hiro Ines Jonas Kemal Lucia Mia Noor Omar Petra".split()
LAST_NAMES = "Schmidt Rossi Tanaka Novak Silva Martin Haddad Okoye Larsen Kovacs Moreau Duarte".split()
COMPANIES = ("Acme", "Globex", "Initech", "Umbra Foods", "North Sea Shipping", "Delta Optics", "Vega Motors")
CITIES = ("Berlin", "Porto", "Osaka", "Lagos", "Turin", "Lyon", "Bergen", "San Diego", "Cape Town", "Graz")
DAYS = "Monday Tuesday Wednesday Thursday Friday".split()
GOODS = ("two chairs", "a bicycle", "ten books", "a lamp", "three monitors", "a carpet", "five plants")


def write_splits(folder: Path, rows: list[Row], seed: int = 0) -> None:
    """Write train, validation and test as JSONL; no row is in two of them."""
    distinct = list({repr(row): row for row in rows}.values())
    random.Random(seed).shuffle(distinct)
    folder.mkdir(parents=True, exist_ok=True)
    begin = 0
    for split, share in SPLITS.items():
        end = begin + round(share * len(distinct))
        write_lines(folder / f"{split}.jsonl", iter(distinct[begin:end]))
        begin = end


def text_classification(folder: Path) -> None:
    """Write excerpts of news with their topics."""
    write_bbc_news(folder, rows={"train": 600, "validation": 150, "test": 150}, excerpt_words=(16, 32, 64))


def regression(folder: Path) -> None:
    """Write pairs of excerpts with a score: 1 for two parts of one article, 0.5 for one topic, 0 for two topics."""
    write_bbc_news(folder / "articles", rows={"train": 600}, excerpt_words=(48,))
    generator = random.Random(0)
    articles = [tiny_models.read_json(line) for line in (folder / "articles" / "train.jsonl").open(encoding="utf-8")]
    rows = []
    for article in articles:
        words = article["text"].split()
        first, second = " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])
        other = generator.choice(articles)
        score = 0.5 if other["label"] == article["label"] else 0.0
        rows.append({"text": first, "text_pair": second, "score": 1.0})
        rows.append({"text": first, "text_pair": " ".join(other["text"].split()[24:]), "score": score})
    write_splits(folder, rows)


def token_classification(folder: Path) -> None:
    """Write sentences with persons, companies and places in BIO tags."""
    generator = random.Random(0)
    forms = (
        "PER works for ORG in LOC .", "ORG opened an office in LOC on DAY .", "On DAY PER met PER at ORG .",
        "PER moved from LOC to LOC .", "The board of ORG appointed PER .", "It rained in LOC all DAY .",
    )  # fmt: skip
    fill: dict[str, Callable[[], str]] = {
        "PER": lambda: f"{generator.choice(FIRST_NAMES)} {generator.choice(LAST_NAMES)}",
        "ORG": lambda: generator.choice(COMPANIES), "LOC": lambda: generator.choice(CITIES),
    }  # fmt: skip
    rows = []
    for _ in range(500):
        tokens, tags = [], []
        for word in generator.choice(forms).split():
            words = fill[word]().split() if word in fill else [word.replace("DAY", generator.choice(DAYS))]
            tokens += words
            tags += [f"{'I' if i else 'B'}-{word}" if word in fill else "O" for i in range(len(words))]
        rows.append({"tokens": tokens, "tags": tags})
    write_splits(folder, rows)


def question_answering(folder: Path) -> None:
    """Write reports of deliveries with questions; a fifth of the questions have no answer in their report."""
    generator = random.Random(0)
    rows = []
    for _ in range(600):
        who, goods = f"{generator.choice(FIRST_NAMES)} {generator.choice(LAST_NAMES)}", generator.choice(GOODS)
        start, end = generator.sample(CITIES, 2)
        day, company = generator.choice(DAYS), generator.choice(COMPANIES)
        context = f"{company} sent {goods} from {start} to {end}. {who} signed for the parcel on {day}."
        answers = {
            "Who sent the parcel?": company, "What was sent?": goods, "Where did it come from?": start,
            "Where did it go?": end, "Who signed for it?": who, "When did it arrive?": day, "What did it cost?": "",
            "Which truck brought it?": "",
        }  # fmt: skip
        question = generator.choice(list(answers))
        answer = answers[question]
        found = (
            {"text": [answer], "answer_start": [context.index(answer)]} if answer else {"text": [], "answer_start": []}
        )
        rows.append({"context": context, "question": question, "answers": found})
    write_splits(folder, rows)


def translation(folder: Path) -> None:
    """Write German sentences with their English translations, and a small Marian."""
    nouns = {"Hund": "dog", "Vogel": "bird", "Mann": "man", "Lehrer": "teacher", "Fisch": "fish", "Koch": "cook"}
    verbs = {"sieht": "sees", "hört": "hears", "sucht": "looks for", "kennt": "knows"}
    kinds = {"alte": "old", "kleine": "small", "neue": "new"}
    rows = [
        {"source": f"Der {kind} {subject} {verb} den {kind2}n {thing} .",
         "target": f"The {kinds[kind]} {nouns[subject]} {verbs[verb]} the {kinds[kind2]} {nouns[thing]} ."}
        for subject in nouns for verb in verbs for thing in nouns for kind in kinds for kind2 in kinds
    ]  # fmt: skip
    write_splits(folder, rows)
    tiny_models.marian(folder / "base", texts_of(rows))


def summarization(folder: Path) -> None:
    """Write reports of a council with their headlines, and a small BART."""
    generator = random.Random(0)
    plans = {
        "build a new bridge": "new bridge", "close the old pool": "pool to close",
        "repair the theatre": "theatre repairs", "plant trees along the river": "trees along the river",
        "open the library on Sundays": "library open on Sundays",
    }  # fmt: skip
    rows = []
    for _ in range(1000):
        city, day, plan = generator.choice(CITIES), generator.choice(DAYS), generator.choice(list(plans))
        votes, weather = generator.choice(("ten", "twelve", "twenty")), generator.choice(("rain", "sunshine", "fog"))
        source = (
            f"In {weather} the council of {city} met on {day} . After two hours of debate it decided to {plan} . "
            f"There were {votes} votes for the plan . Work begins next year ."
        )
        rows.append({"source": source, "target": f"{city} : {plans[plan]}"})
    write_splits(folder, rows)
    tiny_models.bart(folder / "base", texts_of(rows))


def text_generation(folder: Path) -> None:
    """Write chats of a help desk, and a small Llama with a chat template."""
    generator = random.Random(0)
    answers = {
        "reset my password": "Open Settings, choose Security and press Reset.",
        "change my address": "Open Settings, choose Profile and edit the address.",
        "cancel my order": "Open Orders, choose the order and press Cancel.",
        "download my invoice": "Open Orders, choose the order and press Invoice.",
    }
    openings = ("How do I", "How can I", "Please tell me how to", "What must I do to", "I want to")
    endings = ("?", " ?", ", please?", " today?", " on my phone?", "!", " now?", ".")
    rows = [
        {"messages": [{"role": "user", "content": f"{opening} {request}{ending}"},
                      {"role": "assistant", "content": answer}]}
        for opening in openings for request, answer in answers.items() for ending in endings
    ]  # fmt: skip
    generator.shuffle(rows)
    write_splits(folder, rows)
    tiny_models.llama(folder / "base", [each["content"] for row in rows for each in row["messages"]])


def automatic_speech_recognition(folder: Path) -> None:
    """Write recordings of telephone keys with the digits as their transcripts, and a small Whisper."""
    rows = list(tiny_models.telephone_keys(folder, count=240))
    write_splits(folder, rows)
    tiny_models.whisper(folder / "base", [row["target"] for row in rows])


def texts_of(rows: list[Row]) -> Iterator[str]:
    """Yield sources and targets."""
    for row in rows:
        yield from (row["source"], row["target"])


TASKS = {
    each.__name__.replace("_", "-"): each
    for each in (
        text_classification, regression, token_classification, question_answering, translation, summarization,
        text_generation, automatic_speech_recognition,
    )
}  # fmt: skip

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in TASKS:
        sys.exit(f"usage: python docs/tutorials/prepare.py TASK FOLDER; TASK is one of {', '.join(TASKS)}")
    TASKS[sys.argv[1]](Path(sys.argv[2]))
