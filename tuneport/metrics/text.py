"""Metrics of generated text. All are shares from 0 to 1, except perplexity and the error rates, which may exceed 1."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import jiwer
import numpy as np
import numpy.typing as npt
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from tuneport.scripts import CHARACTER, HAN, KANA, UNSPACED, is_unspaced, separate_characters

ROUGE = ("rouge1", "rouge2", "rougeL")
WORD = re.compile(rf"{CHARACTER}|[^\W_{UNSPACED}]+")
Scores = npt.NDArray[np.float64]
"""A score for each row, (rows,)."""


def bleu(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Compute corpus BLEU (Papineni et al., 2002) by sacrebleu, over the tokens of `bleu_tokenizer`."""
    tokenizer = bleu_tokenizer(expected)
    # `force` only silences a warning that texts look tokenized, as those of a decoder may.
    return float(sacrebleu.corpus_bleu(predicted, [expected], tokenize=tokenizer, force=True).score) / 100


def bleu_tokenizer(expected: Sequence[str]) -> Literal["13a", "zh", "char"]:
    """Choose sacrebleu's tokenizer by the script of the references.

    `zh` splits Chinese into characters, `char` other scripts without spaces (Japanese, Thai); `13a` is for all others.
    """
    if not is_unspaced(expected):
        return "13a"
    is_chinese = any(map(HAN.search, expected)) and not any(map(KANA.search, expected))
    return "zh" if is_chinese else "char"


def chrf(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Compute corpus chrF, the F-score of character n-grams without spaces (Popović, 2015), by sacrebleu."""
    return float(sacrebleu.corpus_chrf(predicted, [expected]).score) / 100


def chrf_each(predicted: Sequence[str], expected: Sequence[str]) -> Scores:
    """Compute chrF for each row."""
    pairs = zip(predicted, expected, strict=True)
    return np.array([sacrebleu.sentence_chrf(text, [right]).score / 100 for text, right in pairs])


def rouge_each(predicted: Sequence[str], expected: Sequence[str]) -> dict[str, Scores]:
    """Compute the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004) for each row; a corpus has their means."""
    scorer = RougeScorer(ROUGE, tokenizer=AnyScript())
    scores = [scorer.score(right, text) for text, right in zip(predicted, expected, strict=True)]
    return {name: np.array([score[name].fmeasure for score in scores]) for name in ROUGE}


def word_error_rate(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Compute the word error rate of a corpus; capitals and punctuation count.

    In scripts without spaces each character is a word, as in the mixed error rate of Chinese and English speech.
    """
    return float(jiwer.wer(list(map(separate_characters, expected)), list(map(separate_characters, predicted))))


def character_error_rate(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Compute the character error rate of a corpus; capitals and punctuation count."""
    return float(jiwer.cer(list(expected), list(predicted)))


def perplexity(total_loss: float, num_tokens: float) -> float:
    """Compute perplexity from the sum of the tokens' cross-entropies; e^700 at most, so that JSON can hold it."""
    return math.exp(min(total_loss / num_tokens, 700.0))


class AnyScript(Tokenizer):
    """Splits words like rouge_score, stems included, and keeps words outside ASCII, which it would split or drop.

    In scripts without spaces each character is a word.
    """

    def __init__(self) -> None:
        """Use the Porter stemmer, as published ROUGE scores do."""
        self._english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Split a text into lower-case words."""
        words = WORD.findall(text.lower())
        return [piece for word in words for piece in (self._english.tokenize(word) if word.isascii() else [word])]
