"""Tests of the count of tokens that workers share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdmt.distill.token_budget import BudgetExceeded, TokenBudget
from kdmt.errors import UserError

_WORKER = """
import sys
from pathlib import Path
from kdmt.distill.token_budget import BudgetExceeded, TokenBudget
budget = TokenBudget(Path(sys.argv[1]), 3000)
done = 0
for _ in range(200):
    try:
        budget.reserve(10)
    except BudgetExceeded:
        continue
    budget.settle(10, 7)
    done += 7
print(done)
"""


def test_tokens_are_reserved_and_settled(tmp_path: Path) -> None:
    budget = TokenBudget(tmp_path / "tokens", 100)
    assert budget.used() == 0
    budget.reserve(60)
    with pytest.raises(BudgetExceeded):
        budget.reserve(41)
    assert budget.used() == 60
    budget.settle(60, 12)
    budget.reserve(88)
    assert TokenBudget(tmp_path / "tokens").used() == 100
    with pytest.raises(BudgetExceeded):
        TokenBudget(tmp_path / "tokens", 100).reserve(1)
    TokenBudget(tmp_path / "tokens").reserve(1000)  # no limit
    assert budget.used() == 1100


def test_processes_share_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORKER, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    total = sum(int(worker.communicate()[0]) for worker in workers)
    assert total == TokenBudget(path).used()  # no update is lost
    assert 2950 <= total <= 3000


def test_a_file_that_is_no_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("12x\n", encoding="utf-8")
    with pytest.raises(
        UserError, match="tokens: not a number of tokens: remove it to count those of the stored answers"
    ):
        TokenBudget(tmp_path / "tokens").used()


def test_tokens_that_were_used_elsewhere_count(tmp_path: Path) -> None:
    budget = TokenBudget(tmp_path / "tokens", limit=100, used_before=70)
    assert budget.used() == 70
    budget.reserve(30)
    assert budget.used() == 100
    with pytest.raises(BudgetExceeded):
        budget.reserve(1)
    budget.settle(30, 10)
    assert (budget.used(), TokenBudget(tmp_path / "tokens").used()) == (80, 10)
