"""Several processes compute what one does on the whole batch: batch norm, dropout, gradients, means; they notice one that is gone or drifts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcnas_training.checkpoints import state_from_bytes, state_to_bytes
from dcnas_training.distributed import ALONE, joined
from dcnas_harness.seat import Seat

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


@pytest.mark.parametrize(("memory_format", "bf16"), [("contiguous_format", False), ("channels_last", False), ("channels_last", True)])
def test_processes_compute_what_one_does(forks: Callable[..., Any], tmp_path: Any, memory_format: str, bf16: bool) -> None:
    """Outputs, loss, gradients and statistics of batches shared by two and three are those of one process, dropout included."""
    script = f"FORMAT, BF16 = torch.{memory_format}, {bf16}\n{WHOLE_BATCH}"
    found = {name: {key: torch.tensor(value) for key, value in one.items()} for name, one in forks(script, tmp_path).items()}
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
