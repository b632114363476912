"""Go on with `small`: `python -m training.small --coco ../shared/coco --work DIR --out ADAPTER`.

LoRA on every matrix of the decoder, and the projector; the base and the tower stay as they are.
Every step draws from its own seed and checkpoints lie in DIR: a killed run goes on. The base is
found as `lf.load("small")` finds it.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lvlm_fix.small.base import SPECIAL, Base, base_file
from lvlm_fix.small.folder import KEPT, PROJECTOR, assembled, small_adapter
from training.targets import LONG, SHORT, Photo, ask, long_text, short_text
from training.train import CLASSES, SEED, file_of, rate, read, write

PEAK, SCALE = 2e-4, 2.0  # rate of LoRA (the projector's is the same); what LoRA's B is times
PATCHES, FEWER = 256, 96  # of a photo, and how many of them most steps see
WHOLE, KEEP = 0.15, 10  # share of the steps that see every patch; steps between checkpoints
BRIEF, CLOSED = 0.2, 0.5  # share of short descriptions; weight of yes/no answers


class LoRA(nn.Module):
    """A frozen linear layer and a trained one of low rank beside it."""

    def __init__(self, linear: nn.Linear, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.low, self.high = nn.Parameter(low.float()), nn.Parameter(high.float() / SCALE)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.low.to(x.dtype))
        return self.linear(x) + F.linear(inner, (SCALE * self.high).to(x.dtype))


class Small:
    """The model with its adapter taken apart, and the texts that it is taught."""

    def __init__(self, start: Path, coco: Path, device: str) -> None:
        self.coco, self.device = coco, device
        adapter = load_file(start)
        self.kept = adapter.pop(KEPT)
        base = Base(base_file(), self.kept)
        self.tokenizer = base.tokenizer()
        plain = {k: v for k, v in adapter.items() if k.startswith(PROJECTOR)}
        model: Any = assembled(base, plain).requires_grad_(False).to(device)
        self.tower = model.model.vision_tower.float().eval()
        self.projector = model.model.multi_modal_projector.float().requires_grad_(True)
        self.decoder = model.model.language_model.train()
        self.lora: dict[str, LoRA] = {}
        for name in [n for n, m in self.decoder.named_modules() if isinstance(m, nn.Linear)]:
            stem = f"model.{name}."
            low, high = (adapter[f"{stem}lora_{x}.weight"].to(device) for x in "AB")
            self.lora[stem] = LoRA(self.decoder.get_submodule(name), low, high)
            self.decoder.set_submodule(name, self.lora[stem])
        data = read(coco)
        self.data = data
        count = len(data.ids) - data.held
        self.places = [i for i in range(count) if data.photos[i].captions]
        self.held = [i for i in range(count, len(data.ids)) if data.photos[i].captions]

    def trained(self) -> nn.ModuleList:
        return nn.ModuleList([*self.lora.values(), self.projector])

    def adapter(self) -> dict[str, Tensor]:
        """As it is shipped: LoRA in bfloat16, B times the scale."""
        out = {KEPT: self.kept}
        for stem, lora in self.lora.items():
            out[f"{stem}lora_A.weight"] = lora.low.detach().bfloat16().cpu()
            out[f"{stem}lora_B.weight"] = (SCALE * lora.high.detach()).bfloat16().cpu()
        for name, weight in self.projector.state_dict().items():
            out[PROJECTOR + name] = weight.cpu()
        return {name: out[name].contiguous() for name in sorted(out)}

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def turn(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of a turn without its opening, and its labels: -100 where nothing is learned."""
        asked = self.ids(f"{question}{SPECIAL[2]}\n{SPECIAL[1]}assistant\n")
        said = [*self.ids(answer), *self.ids(SPECIAL[2])]
        return asked + said, [-100] * len(asked) + said

    def dialogue(
        self, photo: Photo, chance: random.Random
    ) -> tuple[list[int], list[int], list[bool]]:
        """A description and a yes/no question, in either order: ids, labels, what is yes/no."""
        brief = chance.random() < BRIEF
        text = short_text(photo, chance) if brief else long_text(photo, chance)
        yes = bool(photo.visible) and chance.random() < 0.5
        absent = [name for name in CLASSES if name not in photo.objects]
        name = chance.choice(photo.visible if yes else absent)
        turns = [
            (chance.choice(SHORT if brief else LONG), text, False),
            (ask(name), "Yes" if yes else "No", True),
        ]
        chance.shuffle(turns)
        ids: list[int] = []
        labels: list[int] = []
        closed: list[bool] = []
        for question, answer, kind in turns:
            between = self.ids(f"\n{SPECIAL[1]}user\n") if ids else []
            asked, said = self.turn(question, answer)
            ids += between + asked
            labels += [-100] * len(between) + said
            closed += [kind] * (len(between) + len(asked))
        return ids, labels, closed

    @torch.no_grad()
    def features(self, some: list[int], chance: random.Random, vary: bool) -> Tensor:
        """Patch features of some photos, half of them mirrored: photo, patch, 384."""
        from training.tower import pixels

        images: list[Tensor] = []
        for place in some:
            image = Image.open(file_of(self.coco, self.data.ids[place])).convert("RGB")
            mirrored = vary and chance.random() < 0.5
            images.append(pixels(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored
                                 else image))  # fmt: skip
        seen = self.tower(torch.stack(images).to(self.device), output_hidden_states=True)
        return seen.hidden_states[-1][:, 1:]

    def losses(self, some: list[int], chance: random.Random, kept: int, vary: bool = True) -> Any:
        """Mean loss of the descriptions, and of the yes/no answers."""
        features = self.features(some, chance, vary)
        order = torch.rand(len(some), PATCHES).topk(kept).indices.sort().values.to(self.device)
        features = features.gather(1, order[..., None].expand(-1, -1, features.shape[-1]))
        lead, behind = self.ids(f"{SPECIAL[1]}user\n"), self.ids("\n")
        rows = [self.dialogue(self.data.photos[place], chance) for place in some]
        width = max(len(ids) for ids, _, _ in rows)
        pad = self.ids(SPECIAL[0])[0]
        ids = torch.tensor([i + [pad] * (width - len(i)) for i, _, _ in rows]).to(self.device)
        labels = torch.tensor([t + [-100] * (width - len(t)) for _, t, _ in rows])
        closed = torch.tensor([c + [False] * (width - len(c)) for _, _, c in rows])[labels >= 0]
        labels, closed = labels.to(self.device), closed.to(self.device)
        embed = self.decoder.embed_tokens
        head, tail = (
            embed(torch.tensor(x).to(self.device)).expand(len(some), -1, -1) for x in (lead, behind)
        )
        seen = self.projector(features).to(head.dtype)
        inputs = torch.cat((head, seen, tail, embed(ids)), dim=1)
        hidden = self.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
        # a label is told by the position before it, of which the first is the image's last
        before = hidden[:, -width - 1 : -1][labels >= 0]
        logits = F.linear(before, embed.weight).float()
        each = F.cross_entropy(logits, labels[labels >= 0], reduction="none")
        return each[~closed].mean(), each[closed].mean()

    @torch.no_grad()
    def judge(self, count: int) -> tuple[float, float]:
        """The same losses on held-out photos, every patch seen."""
        chance, found = random.Random(SEED), []
        for at in range(0, min(count, len(self.held)), 8):
            found.append(self.losses(self.held[at : at + 8], chance, PATCHES, vary=False))
        return tuple(torch.tensor(found).mean(0).tolist())  # type: ignore[return-value]


def train(small: Small, work: Path, steps: int, size: int) -> None:
    """All steps that are left, a checkpoint every `KEEP`."""
    modules = small.trained()
    optimizer = torch.optim.AdamW(modules.parameters(), PEAK, betas=(0.9, 0.98), weight_decay=0.01)
    file, step = work / "small.safetensors", 0
    if file.exists():
        step = resume(modules, optimizer, load_file(file))
    started, first = time.time(), step
    while step < steps:
        rate(optimizer, PEAK * min(1, (step + 1) / 8), max(step / steps, 0.02))
        torch.manual_seed(SEED * 1_000_003 + step)
        chance = random.Random(SEED * 1_000_003 + step)
        kept = FEWER if step < steps * (1 - WHOLE) else PATCHES
        text, closed = small.losses(chance.sample(small.places, size), chance, kept)
        optimizer.zero_grad()
        (text + CLOSED * closed).backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        step += 1
        each = (time.time() - started) / (step - first)
        print(f"step {step}/{steps} text {text:.3f} yes/no {closed:.4f}, {each:.1f} s", flush=True)
        if step % KEEP == 0 or step == steps:
            keep(modules, optimizer, step, file)
            save_file(small.adapter(), work / "adapter.partial")
            (work / "adapter.partial").rename(work / "adapter.safetensors")


def keep(modules: nn.Module, optimizer: torch.optim.Optimizer, step: int, file: Path) -> None:
    """Write weights, moments and the step."""
    state = {f"raw.{name}": value for name, value in modules.state_dict().items()}
    state = {name: value for name, value in state.items() if ".linear." not in name}
    for number, moments in optimizer.state_dict()["state"].items():
        state |= {f"opt.{number}.{name}": value for name, value in moments.items()}
    write(state | {"step": torch.tensor(step)}, file)


def resume(modules: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> int:
    """Take what `keep` wrote; the step."""
    raw = {k[4:]: v for k, v in state.items() if k.startswith("raw.")}
    modules.load_state_dict(raw, strict=False)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("opt."):
            _, number, key = name.split(".")
            moments.setdefault(int(number), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return int(state["step"].item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--out", type=Path, help="the finished adapter")
    parser.add_argument("--start", type=Path, default=small_adapter(), help="adapter to begin with")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8, help="photos a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--judge", type=int, default=0, help="held-out photos of the last losses")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = Small(arguments.start, arguments.coco, device)
    train(small, arguments.work, arguments.steps, arguments.batch)
    if arguments.judge:
        text, closed = small.judge(arguments.judge)
        print(f"held out: text {text:.3f} yes/no {closed:.3f}")
    if arguments.out:
        (arguments.work / "adapter.safetensors").replace(arguments.out)


if __name__ == "__main__":
    main()
