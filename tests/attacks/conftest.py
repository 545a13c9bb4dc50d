"""Failed assertions of the arena say what they compared."""

import pytest

pytest.register_assert_rewrite("tests.attacks.arena")
