"""Users of a data folder that cannot be recommended to do not stop the others."""

import pytest

from trainers.commands.recommend import histories_of
from trainers.data.interactions import Interactions

INTERACTIONS = Interactions.from_sequences(
    [["a", "b"], [], ["a", "odd", "new"], ["b"], ["a"]], ["a", "b", "odd", "new"]
)


def test_users_with_items_that_the_recommender_lacks_are_named(capsys):
    assert histories_of(INTERACTIONS, {"a", "b"}, users=2) == [["a", "b"], ["b"]]
    names = INTERACTIONS.user_ids
    assert capsys.readouterr().out == (
        f"2 users are left out: {names[1]} (no interaction); "
        f"{names[2]} (the recommender has no item 'odd' and 1 more)\n"
    )
    assert histories_of(INTERACTIONS, {"a", "b", "odd", "new"}, users=1) == [["a", "b"]]
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="no user has a history of the recommender's items alone"):
        histories_of(INTERACTIONS, {"c"}, users=3)
