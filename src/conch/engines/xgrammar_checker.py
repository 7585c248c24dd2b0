"""The process that tries guides out for vLLM and TensorRT-LLM, with xgrammar itself, which both compile guides with.

As conch.engines.guide_checker in all else; it runs in the Python of the engine, which has xgrammar.
"""

from __future__ import annotations

from typing import Any

from conch.engines import guide_checker
from conch.engines.guide_compiler import with_exact_integers
from conch.engines.guide_model import GuideVocabulary
from conch.errors import RepositoryError
from conch.sampling import Guide


class XgrammarCompiler:
    """Compiles guides with xgrammar.

    Args:
        vocabulary: with a sentinel: an id that adds nothing stands for a place where nothing may follow.

    Raises:
        RepositoryError: xgrammar is not there.
    """

    def __init__(self, vocabulary: GuideVocabulary) -> None:
        try:
            import xgrammar
        except ImportError as error:
            raise RepositoryError(f"xgrammar, which guides need, cannot be imported: {error}") from None
        self._vocabulary, self._xgrammar = vocabulary, xgrammar
        info = xgrammar.TokenizerInfo(
            list(vocabulary.pieces), vocab_size=len(vocabulary.pieces), stop_token_ids=[vocabulary.end_id]
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(self, guide: Guide, max_tokens: int = 1) -> list[int]:
        """As of conch.engines.guide_checker.Compiler; RuntimeError where it cannot be compiled."""
        matcher = self._xgrammar.GrammarMatcher(self._compiled(guide))
        bitmask = self._xgrammar.allocate_token_bitmask(1, len(self._vocabulary.pieces))
        ids: list[int] = []
        while len(ids) < max_tokens and self._vocabulary.end_id not in ids:
            matcher.fill_next_token_bitmask(bitmask)
            following = _first_set(bitmask[0].tolist())
            ids.append(0 if following is None else following)
            if following is None or not matcher.accept_token(following):
                break
        return ids

    def _compiled(self, guide: Guide) -> Any:
        if guide.type == "regex":
            return self._compiler.compile_regex(guide.text)
        if guide.type == "ebnf_grammar":
            return self._compiler.compile_grammar(guide.text)
        return self._compiler.compile_json_schema("{}" if guide.type == "json" else with_exact_integers(guide.text))


def _first_set(words: list[int]) -> int | None:
    """Index of the first bit that is set in words of 32."""
    for place, word in enumerate(words):
        bits = word & 0xFFFFFFFF
        if bits:
            return place * 32 + (bits & -bits).bit_length() - 1
    return None


if __name__ == "__main__":
    guide_checker.main(XgrammarCompiler)
