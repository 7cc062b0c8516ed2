"""The cases by name. A name never changes its meaning; docs/reference/conformance.md has a paragraph for each."""

from typing import Final

from hermes_core.api.errors import InputError

from hermes_hw.conformance import estimates, faults, identity, optional
from hermes_hw.conformance.case import Case

PROFILES: Final = ("core", "step", "table", "energy", "retrieval")

CASES: Final = (
    Case("ID-01", "says who it is", "core", identity.says_who_it_is),
    Case("ID-02", "describes itself alike", "core", identity.describes_itself_alike),
    Case("ID-03", "describes itself fast", "core", identity.describes_itself_fast),
    Case("ID-04", "keeps its fingerprint over a restart", "core", identity.fingerprint_survives_a_restart),
    Case("ID-05", "says that it serves", "core", identity.says_that_it_serves),
    Case("ID-06", "ignores unknown features", "core", identity.ignores_unknown_features),
    Case("CF-01", "has a schema", "core", identity.has_a_schema),
    Case("CF-02", "takes the empty configuration", "core", identity.takes_the_empty_configuration),
    Case("CF-03", "points at a bad key", "core", identity.points_at_a_bad_key),
    Case("CF-04", "refuses what is not JSON", "core", identity.refuses_what_is_not_json),
    Case("CF-05", "opens with sound configurations only", "core", identity.opens_with_sound_configurations_only),
    Case("CF-06", "validating opens nothing", "core", identity.validating_opens_nothing),
    Case("SE-01", "opens twice alike", "core", identity.opens_twice_alike),
    Case("SE-02", "refuses other content", "core", identity.refuses_other_content),
    Case("SE-03", "knows no unopened session", "core", identity.knows_no_unopened_session),
    Case("SE-04", "closes what is closed", "core", identity.closes_what_is_closed),
    Case("SE-05", "forgets a closed session", "core", identity.forgets_a_closed_session),
    Case("SE-06", "keeps sessions apart", "core", identity.keeps_sessions_apart),
    Case("SE-07", "names sessions by content", "core", identity.names_sessions_by_content),
    Case("SE-08", "opens as many as it says", "core", identity.opens_as_many_as_it_says),
    Case("ES-01", "answers each question", "core", estimates.answers_each_question),
    Case("ES-02", "prices are positive", "core", estimates.prices_are_positive),
    Case("ES-03", "order does not matter", "core", estimates.order_does_not_matter),
    Case("ES-04", "splitting does not matter", "core", estimates.splitting_does_not_matter),
    Case("ES-05", "duplicates agree", "core", estimates.duplicates_agree),
    Case("ES-06", "an empty batch is legal", "core", estimates.an_empty_batch_is_legal),
    Case("ES-07", "the limit of questions holds", "core", estimates.the_limit_of_questions_holds),
    Case("ES-08", "the limit of bytes holds", "core", estimates.the_limit_of_bytes_holds),
    Case("ES-09", "sources are known", "core", estimates.sources_are_known, warning=True),
    Case("PH-01", "a larger product takes longer", "core", estimates.a_larger_product_takes_longer, warning=True),
    Case("PH-02", "a longer context takes longer", "core", estimates.a_longer_context_takes_longer, warning=True),
    Case("PH-03", "more bytes take longer", "core", estimates.more_bytes_take_longer, warning=True),
    Case("DT-01", "keeps its promise", "core", estimates.keeps_its_promise),
    Case("DT-02", "keeps it across sessions", "core", estimates.keeps_it_across_sessions),
    Case("DT-03", "keeps it across a restart", "core", estimates.keeps_it_across_a_restart),
    Case("DT-04", "declares determinism", "core", estimates.declares_determinism),
    Case("ER-01", "refuses an unknown operator", "core", faults.refuses_an_unknown_operator),
    Case("ER-02", "refuses columns that do not fit", "core", faults.refuses_columns_that_do_not_fit),
    Case("ER-03", "names the field", "core", faults.names_the_field, warning=True),
    Case("ER-04", "refuses a kind it does not price", "core", faults.refuses_a_kind_it_does_not_price),
    Case("ER-05", "refuses a format it does not price", "core", faults.refuses_a_format_it_does_not_price),
    Case("ER-06", "a bad question spoils no other", "core", faults.a_bad_question_spoils_no_other),
    Case("ER-07", "asks one thing at a time", "core", faults.asks_one_thing_at_a_time),
    Case("ER-08", "offers no more than it says", "core", optional.offers_no_more_than_it_says),
    Case("RB-01", "survives a deadline", "core", faults.survives_a_deadline),
    Case("RB-02", "survives a cancelled call", "core", faults.survives_a_cancelled_call),
    Case("RB-03", "survives garbage", "core", faults.survives_garbage),
    Case("RB-04", "survives bytes that are no message", "core", faults.survives_bytes_that_are_no_message),
    Case("RB-05", "answers many at once", "core", faults.answers_many_at_once),
    Case("ST-01", "steps do not depend on places", "step", optional.steps_do_not_depend_on_places),
    Case("ST-02", "a step of nothing is refused", "step", optional.a_step_of_nothing_is_refused),
    Case("ST-03", "refuses steps that do not fit", "step", faults.refuses_steps_that_do_not_fit),
    Case("TB-01", "tables agree", "table", optional.tables_agree),
    Case("TB-02", "tables are whole", "table", optional.tables_are_whole),
    Case("EN-01", "energy is given", "energy", optional.energy_is_given),
    Case("EN-02", "no energy is made up", "core", optional.no_energy_is_made_up),
    Case("RE-01", "retrieval is priced", "retrieval", optional.retrieval_is_priced),
)
"""All cases, in the order in which they run."""


def case_named(name: str) -> Case:
    """Return the case of a name. Raises InputError for one that is not there."""
    for case in CASES:
        if case.name == name:
            return case
    raise InputError(f"there is no conformance case {name!r}", remedy="`hermes hw conformance --list` shows all.")
