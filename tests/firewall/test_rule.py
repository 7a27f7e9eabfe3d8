"""The options of a rule: its end, and what comes after it."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p import Rule
from stronghold_p2p.firewall.rule import MAX_ENDS, Verdict, left_at

ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SIGN = Rule.restricted(allow={"Ping"}, ask={"Sign", "Read"})


def everybody(*_: object) -> bool:
    return True


def at(rule: Rule, when: datetime) -> Rule | None:
    """What is left of the rule then."""
    return left_at(rule, when.timestamp())


def passing(rule: Rule | None) -> list[str] | None:
    """The types that pass."""
    return None if rule is None else rule.named(Verdict.ALLOW)


# -- options -------------------------------------------------------------------------------------------


def test_a_rule_has_no_options_unless_it_is_given_some() -> None:
    for rule in (ALLOW, SIGN, Rule.restricted(everybody)):
        assert (rule.until, rule.then, rule.strict, rule.reasons) == (None, None, False, False)
        assert not rule.has_options


def test_options_are_replaced_one_by_one() -> None:
    rule = SIGN.replace(until=NOON, strict=True)
    assert (rule.until, rule.strict, rule.reasons) == (NOON, True, False)
    assert (rule.types, rule.otherwise) == (SIGN.types, SIGN.otherwise)
    other = rule.replace(reasons=True, strict=False)
    assert (other.until, other.strict, other.reasons) == (NOON, False, True)
    assert rule.replace() == rule
    assert SIGN == rule.replace(until=None, strict=False)


@pytest.mark.parametrize("rule", [ALLOW, REJECT, ASK], ids=repr)
def test_without_options_it_is_the_very_same_rule(rule: Rule) -> None:
    """The gate tells it by that."""
    changed = rule.replace(strict=True, until=NOON)
    assert changed is not rule
    assert changed != rule
    assert changed.replace(strict=False, until=None) is rule


def test_a_date_is_kept_in_utc() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    rule = ASK.replace(until=datetime(2027, 1, 1, 17, 30, tzinfo=there))
    assert rule == ASK.replace(until=NOON)
    assert rule.until is not None
    assert rule.until.tzinfo is UTC
    assert rule.end == NOON.timestamp()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"until": datetime(2027, 1, 1)}, ValueError),
        ({"until": datetime.max.replace(tzinfo=timezone(-HOUR))}, ValueError),
        ({"until": date(2027, 1, 1)}, TypeError),
        ({"until": NOON.timestamp()}, TypeError),
        ({"until": "2027-01-01T00:00:00Z"}, TypeError),
        ({"strict": 1}, TypeError),
        ({"strict": None}, TypeError),
        ({"reasons": "yes"}, TypeError),
        ({"then": ASK}, TypeError),
    ],
)
def test_options_that_are_none(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ALLOW.replace(**options)


def test_rules_with_options_differ() -> None:
    rules = [
        rule.replace(until=until, strict=strict, reasons=reasons)
        for rule in (ALLOW, REJECT, ASK, SIGN, Rule.restricted(everybody))
        for until in (None, NOON, NOON + HOUR)
        for strict in (False, True)
        for reasons in (False, True)
    ]
    rules += [ASK.ending(NOON, then) for then in (ALLOW, REJECT, SIGN, SIGN.replace(strict=True))]
    assert len(set(rules)) == len(rules)
    assert all(rule == copy.deepcopy(rule) for rule in rules)


@pytest.mark.parametrize(
    "rule",
    [
        SIGN.replace(until=NOON, strict=True, reasons=True),
        ALLOW.replace(reasons=True),
        REJECT.ending(NOON, SIGN.lend("Sign", NOON + HOUR)),
        Rule.restricted(everybody).replace(until=NOON),
    ],
    ids=["types", "all", "covered", "predicate"],
)
@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda rule: pickle.loads(pickle.dumps(rule))], ids=["copy", "deep", "pickle"]
)
def test_copies(rule: Rule, way: Any) -> None:
    copied = way(rule)
    assert copied == rule
    assert hash(copied) == hash(rule)
    assert (copied.until, copied.then, copied.strict, copied.reasons) == (
        rule.until,
        rule.then,
        rule.strict,
        rule.reasons,
    )
    assert copied.replace(until=None, strict=False, reasons=False) == rule.replace(
        until=None, strict=False, reasons=False
    )


def test_as_text() -> None:
    assert repr(ASK.replace(until=NOON)) == "Rule.ASK.replace(until=2027-01-01T12:00:00+00:00)"
    rule = Rule.restricted(allow={"Ping"}).replace(strict=True, reasons=True)
    assert repr(rule) == "Rule.restricted(allow={'Ping'}).replace(strict=True, reasons=True)"


def test_who_rejects_all_whatever_the_options() -> None:
    assert REJECT.rejects_all
    assert REJECT.replace(reasons=True, until=NOON).rejects_all
    for rule in (ASK, ALLOW, SIGN, Rule.restricted(allow={"Ping"}), Rule.restricted(everybody)):
        assert not rule.rejects_all


# -- for some time -------------------------------------------------------------------------------------


def test_a_type_is_lent_and_the_rule_comes_back() -> None:
    rule = SIGN.lend("Sign", NOON)
    assert (rule.until, rule.then) == (NOON, SIGN)
    assert passing(rule) == ["Ping", "Sign"]
    assert at(rule, NOON - HOUR) is rule
    assert at(rule, NOON) is SIGN


def test_a_type_is_given_for_good() -> None:
    assert SIGN.lend("Sign", None) == Rule.restricted(allow={"Ping", "Sign"}, ask={"Read"})
    strict = SIGN.replace(until=NOON, strict=True, reasons=True)
    assert strict.lend("Sign", None) == SIGN.allowing("Sign").replace(until=NOON, strict=True, reasons=True)


def test_everything_tells_types_apart_once_one_is_lent() -> None:
    rule = ASK.lend("Sign", NOON)
    assert rule.verdict_on("Sign") is Verdict.ALLOW
    assert rule.verdict_on("Read") is rule.verdict_on(None) is Verdict.ASK
    assert at(rule, NOON) is ASK
    assert ALLOW.lend("Sign", NOON) is ALLOW.lend("Sign", None) is ALLOW


@pytest.mark.parametrize("first_is_longer", [False, True])
def test_two_are_lent_and_each_ends_at_its_time(first_is_longer: bool) -> None:
    times = {"Sign": NOON + 2 * HOUR, "Read": NOON + HOUR}
    if not first_is_longer:
        times = dict(reversed(times.items()))
    rule = SIGN
    for name, until in times.items():
        rule = rule.lend(name, until)
    assert passing(at(rule, NOON)) == ["Ping", "Read", "Sign"]
    assert passing(at(rule, NOON + HOUR)) == ["Ping", "Sign"]
    assert at(rule, NOON + 2 * HOUR) is SIGN


def test_two_that_end_at_once_take_one_end() -> None:
    rule = SIGN.lend("Sign", NOON).lend("Read", NOON)
    assert [each.until for each in rule.chain] == [NOON, None]
    assert passing(rule) == ["Ping", "Read", "Sign"]


def test_what_passes_anyway_needs_no_end() -> None:
    assert SIGN.lend("Ping", NOON) is SIGN
    lent = SIGN.lend("Sign", NOON + HOUR)
    assert lent.lend("Sign", NOON) is lent
    assert passing(at(lent.lend("Sign", NOON + 2 * HOUR), NOON + HOUR)) == ["Ping", "Sign"]


def test_nothing_that_is_lent_prolongs_a_rule() -> None:
    """Its own end is another's decision."""
    rule = SIGN.replace(until=NOON).lend("Sign", NOON + HOUR)
    assert passing(rule) == ["Ping", "Sign"]
    assert rule.until == NOON
    assert at(rule, NOON) is None
    assert at(SIGN.replace(until=NOON).lend("Sign", None), NOON) is None


def test_what_comes_back_is_lent_to_as_well() -> None:
    rule = REJECT.ending(NOON, ASK).lend("Sign", NOON + HOUR)
    assert passing(rule) == passing(at(rule, NOON)) == ["Sign"]
    assert at(rule, NOON + HOUR) is ASK
    function = Rule.restricted(everybody)
    assert at(ASK.ending(NOON, function).lend("Sign", NOON + HOUR), NOON) is function


def test_a_function_is_not_lent_to() -> None:
    with pytest.raises(ValueError, match="predicate"):
        Rule.restricted(everybody).lend("Sign", NOON)


def test_what_a_rule_outlives_does_not_come_back() -> None:
    covered = SIGN.lend("Sign", NOON).lend("Read", NOON + HOUR)
    assert at(ALLOW.ending(NOON, covered), NOON) == SIGN.lend("Read", NOON + HOUR)
    assert ALLOW.ending(NOON + HOUR, covered).then is SIGN
    assert ALLOW.ending(NOON, ASK.replace(until=NOON)).then is None
    assert REJECT.ending(NOON, covered).replace(until=NOON + HOUR).then is SIGN
    assert REJECT.ending(NOON, covered).replace(until=None) is REJECT


def test_a_rule_has_so_many_ends_and_no_more() -> None:
    rule = SIGN
    for number in range(MAX_ENDS):
        rule = rule.lend(f"Type{number}", NOON + number * HOUR)
    assert len(list(rule.chain)) == MAX_ENDS + 1
    assert pickle.loads(pickle.dumps(rule)) == rule
    for too_late in (NOON - HOUR, NOON + MAX_ENDS * HOUR):
        with pytest.raises(ValueError, match="more than 64 dates"):
            rule.lend("Sign", too_late)
    rule.lend("Sign", NOON)
    with pytest.raises(ValueError, match="more than 64 dates"):
        ALLOW.ending(NOON - HOUR, rule)


HOURS = st.integers(-3, 12)
LOANS = st.lists(st.tuples(st.sampled_from("ABC"), st.one_of(st.none(), HOURS)), max_size=12)


@given(own=st.one_of(st.none(), HOURS), loans=LOANS, now=HOURS)
def test_a_type_passes_while_it_is_lent_and_no_longer(
    own: int | None, loans: list[tuple[str, int | None]], now: int
) -> None:
    """In whichever order they are lent, to a rule with or without an end of its own."""

    def hour(number: int | None) -> datetime | None:
        return None if number is None else NOON + number * HOUR

    rule = ASK.replace(until=hour(own))
    for name, until in loans:
        rule = rule.lend(name, hour(until))
    left = at(rule, NOON + now * HOUR)
    if own is not None and own <= now:
        assert left is None
        return
    assert left is not None
    lent = {name for name, until in loans if until is None or until > now}
    assert {name for name in "ABC" if left.verdict_on(name) is Verdict.ALLOW} == lent
    assert left.verdict_on("D") is left.verdict_on(None) is Verdict.ASK
    ends = [each.until for each in rule.chain if each.until is not None]
    assert ends == sorted(set(ends))


# -- what goes on in another ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "before", "goes_on"),
    [
        (SIGN, SIGN, True),
        (SIGN.lend("Sign", NOON), SIGN, True),
        (SIGN.lend("Sign", None), SIGN, True),
        (ASK.lend("Sign", NOON), ASK, True),
        (SIGN.replace(until=NOON).lend("Sign", NOON - HOUR), SIGN.replace(until=NOON), True),
        (SIGN.replace(until=NOON).lend("Sign", NOON + HOUR), SIGN.replace(until=NOON), True),
        (SIGN, SIGN.lend("Sign", NOON), False),
        (SIGN, SIGN.replace(until=NOON), False),
        (SIGN.replace(until=NOON + HOUR), SIGN.replace(until=NOON), False),
        (ASK, SIGN, False),
        (SIGN, ASK, False),
        (SIGN, SIGN.replace(strict=True), False),
        (Rule.restricted(everybody), Rule.restricted(everybody), True),
        (Rule.restricted(everybody), Rule.restricted(max), False),
    ],
)
def test_which_rules_go_on_in_which(rule: Rule, before: Rule, goes_on: bool) -> None:
    assert rule.contains(before) is goes_on
