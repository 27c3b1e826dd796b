"""Charters: what a model is for, in words and in money."""

from __future__ import annotations

import msgspec

from endcap.core.errors import DefinitionError


class Charter(msgspec.Struct, frozen=True, kw_only=True):
    """Why a model exists, said before it is trained. It stands on its card, and a gate can require it (``Gate(charter=True)``).

    Args:
        problem: what is wrong today, in a sentence.
        beneficiaries: who is better off when it is solved.
        goal: what will be different, and how one will see it.
        business_metric: the figure the business already watches, such as ``waste per store and week``.
        formula: how that figure follows from the model's answers, in money: ``max(forecast - sold, 0) * cost - max(sold - forecast, 0) * margin``.
            Words and a formula; it is shown, not computed.
        currency: of the formula, as ISO 4217 has it (``EUR``).
        constraints: what must hold besides: by name (``latency``, ``budget``, ``privacy`` ...) in words.
        baseline: what is done without the model, and what that costs.
        owner: who answers for it.
    """

    problem: str
    beneficiaries: str = ""
    goal: str = ""
    business_metric: str = ""
    formula: str = ""
    currency: str = ""
    constraints: dict[str, str] = {}
    baseline: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            texts = [*value, *value.values()] if name == "constraints" and isinstance(value, dict) else [value]
            for text in texts:
                if not isinstance(text, str):
                    raise DefinitionError(f"Charter.{name} holds {text!r}, which is no text.")
        if not self.problem.strip():
            raise DefinitionError("Charter.problem is empty.", hint="say in a sentence what is wrong today")
        if self.currency and not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isupper() and self.currency.isalpha()):
            raise DefinitionError(f"Charter.currency is {self.currency!r}.", hint="write three letters, such as EUR")
        if self.formula and not self.business_metric:
            raise DefinitionError("Charter.formula says how money follows, but Charter.business_metric does not say of what.")
