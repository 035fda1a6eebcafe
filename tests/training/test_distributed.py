"""Several processes compute what one does on the whole batch, and notice when one of them is gone or drifts."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from dcnas_harness.errors import ExitCode
from dcnas_harness.seat import Seat
from dcnas_training.checkpoints import state_from_bytes, state_to_bytes
from dcnas_training.distributed import ALONE, joined
from dcnas_training.shared_batch import SharedBatch

WHOLE_BATCH = """
import torch.nn.functional as F
from torch import nn
from dcnas_training.distributed import joined
from dcnas_training.seeds import seeded

CPU = torch.device("cpu")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(inplace=True), nn.Conv2d(8, 6, 3, bias=False))
        self.dropout, self.head = nn.Dropout(0.4), nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 6))

    def forward(self, x):
        x = F.batch_norm(self.body(x), None, None, weight=self.scale, training=True)
        kept = x.new_empty((len(x), 1, 1, 1)).bernoulli_(0.7)
        x = F.batch_norm(x * kept + x * x, None, None, training=True)
        return self.head(self.dropout(x.mean((2, 3))))

def act(seat):
    torch.manual_seed(0)
    net, images = Net(), torch.rand((6, 3, 9, 9)).requires_grad_()
    own = torch.arange(6).chunk(seat.size)[seat.rank]
    images = images[own].detach().to(memory_format=FORMAT).requires_grad_()
    with joined(seat, CPU) as team:
        with seeded(7, CPU), team.sharing(len(own)), torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            out = net(images)
        loss = out.float().square().mean()
        loss.backward()
        mean = team.average_gradients(net.parameters(), torch.stack([loss, loss + 1]))
        gradients = {name: value.grad.tolist() for name, value in net.named_parameters()}
        buffers = {name: value.tolist() for name, value in net.named_buffers()}
        result = {"out": out.float().tolist(), "loss": mean.tolist(), "images": (images.grad / seat.size).tolist()}
        Path(sys.argv[1], f"{seat.size}-{seat.rank}.json").write_text(json.dumps({**result, **gradients, **buffers}))

assert together(1, act) + together(2, act) + together(3, act) == [0] * 6
print(json.dumps({path.stem: json.loads(path.read_text()) for path in Path(sys.argv[1]).iterdir()}))
"""


@pytest.mark.parametrize(
    ("memory_format", "bf16"), [("contiguous_format", False), ("channels_last", False), ("channels_last", True)]
)
def test_processes_compute_what_one_does(
    forks: Callable[..., Any], tmp_path: Any, memory_format: str, bf16: bool
) -> None:
    """Outputs, loss, gradients and statistics of batches shared by two and three are those of one process, dropout included."""
    script = f"FORMAT, BF16 = torch.{memory_format}, {bf16}\n{WHOLE_BATCH}"
    found = {
        name: {key: torch.tensor(value) for key, value in one.items()} for name, one in forks(script, tmp_path).items()
    }
    one = found.pop("1-0")
    near = {"rtol": 0.05, "atol": 0.05} if bf16 else {"rtol": 1e-5, "atol": 1e-6}
    for size in (2, 3):
        members = [found[f"{size}-{rank}"] for rank in range(size)]
        for name in ("out", "images"):
            torch.testing.assert_close(torch.cat([member.pop(name) for member in members]), one[name], **near)
        for member in members:
            for name, value in member.items():
                torch.testing.assert_close(value, one[name], **near)
                assert torch.equal(value, members[0][name]), f"{name} is the same on all"


TEAM = """
from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_training.distributed import joined, newest_of_leader
from dcnas_training.checkpoints import CheckpointFolder

CPU, folder = torch.device("cpu"), Path(sys.argv[1])

def act(seat):
    with joined(seat, CPU) as team:
        values = [torch.tensor([1.0, 2.0]), torch.tensor([6.0])] if team.leads else []
        assert team.mean(values) == 3.0
        assert team.mean([]) is None
        assert team.total([torch.tensor(2.0)] if team.leads else []) == 2.0
        checkpoints = CheckpointFolder(folder if team.leads else folder / "not there")
        epoch, state = newest_of_leader(checkpoints, team)
        assert epoch == 3
        assert torch.equal(state["optimizer"][0]["momentum"], torch.tensor([1.0, -2.0]))
        assert state["optimizer"][0]["best"] == float("inf")
        assert newest_of_leader(CheckpointFolder(folder / "empty"), team) is None
        team.require_alike({"weight": torch.ones(3), "count": torch.tensor(4)})
        try:
            team.require_alike({"weight": torch.ones(3), "bias": torch.tensor([0.1, 0.2 + team.rank * 1e-7])})
        except UnfitEnvironmentError as error:
            assert "bias differs" in str(error)
        else:
            raise AssertionError("nothing differed")

def dies(seat):
    with joined(seat, CPU) as team:
        if not team.leads:
            os.kill(os.getpid(), signal.SIGKILL)
        team.average_gradients([], torch.ones(1))

CheckpointFolder(folder).save(3, {"optimizer": {0: {"momentum": torch.tensor([1.0, -2.0]), "best": float("inf")}}})
ends = together(2, act)
began = time.monotonic()
deaths = together(2, dies)
print(json.dumps([ends, deaths, time.monotonic() - began]))
"""


def test_processes_agree_and_notice_who_is_gone(forks: Callable[..., Any], tmp_path: Any) -> None:
    """Means count every process's values; the leader's checkpoint is everybody's; other bits and a death end the run with a message."""
    ends, deaths, seconds = forks(TEAM, tmp_path)
    assert ends == [0, 0]
    assert deaths == [ExitCode.UNFIT_ENVIRONMENT, -signal.SIGKILL]
    assert seconds < 30


def test_one_process_joins_nothing() -> None:
    """Alone, a process gets the team that computes what it computed without one."""
    with joined(Seat(), torch.device("cpu")) as team:
        assert team is ALONE
    weight = torch.ones(2, requires_grad=True)
    weight.sum().backward()  # type: ignore[no-untyped-call] # torch gives it no types
    assert team.average_gradients([weight], torch.tensor(3.0)) == 3
    assert weight.grad is not None
    assert weight.grad.tolist() == [1, 1]
    assert team.mean([torch.tensor([1.0]), torch.tensor([2.0, 6.0])]) == 3
    assert team.mean([]) is None
    assert team.from_leader(lambda: {"a": 1}) == {"a": 1}
    team.require_alike({})


def test_draws_that_cannot_be_shared_are_refused() -> None:
    """A function that would normalise or draw for one process's images alone is an error, not another result."""
    image = torch.ones((2, 3, 4, 4))
    with SharedBatch(images=2, rank=0, size=2, gather=lambda x: x, add_up=lambda x: x):
        for function in (functional.dropout2d, torch.bernoulli):
            with pytest.raises(NotImplementedError):
                function(image)
        with pytest.raises(AssertionError, match="no row for each of 2 images"):
            torch.empty(5).bernoulli_(0.5)
        assert torch.equal(functional.dropout(image, 0.5, training=False), image)
        assert nn.BatchNorm2d(3).eval()(image).shape == image.shape


def test_a_state_goes_through_bytes_unchanged() -> None:
    """Tensors, numbers as keys, infinities and empty states come back as they were."""
    state = {"a": {0: torch.arange(3), 1: [1.5, float("inf"), None]}, "b": torch.tensor(2.5)}
    found = state_from_bytes(state_to_bytes(state))
    assert torch.equal(found["a"][0], torch.arange(3))
    assert found["a"][1] == [1.5, float("inf"), None]
    assert found["b"] == 2.5
    assert state_from_bytes(state_to_bytes({})) == {}
