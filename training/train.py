"""Train the model: `python -m training.train --coco ../shared/coco --work DIR --out lvlm_fix/tiny`.

Stages, each kept in DIR and skipped when done: features of the tower; which objects they show; a
tokenizer; the decoder on text alone; the projector by multiple-instance alignment; image and text
together; export. A killed run goes on, and gives what an unbroken one gives.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.export import export
from training.features import PATCHES, compute
from training.targets import (
    LIST,
    LONG,
    SHORT,
    Photo,
    agreed,
    ask,
    listing,
    long_text,
    mentioned,
    sentence,
    short_text,
)
from training.tower import load_tower
from training.visible import confidence

WIDTH, SEED, VIEWS = 256, 0, 3
FEWER = 96  # of a photo's 256 patches in most steps on image and text: faster, and a regulariser
WHOLE = 0.12  # share of the steps, the last ones, that see every patch
VISIBLE = 0.2  # least confidence of the detector for an object that descriptions should name
KEEP = 200  # steps between checkpoints
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<unk>"]
PAD, BOS, EOS, IMAGE = range(4)
CLASSES = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase",
    "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana",
    "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair",
    "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear",
    "hair drier", "toothbrush",
]  # fmt: skip


@dataclass
class Data:
    """Photos of the train splits (the last `held` are kept out), and those known by captions
    alone.
    """

    ids: list[int]
    photos: list[Photo]
    texts: list[Photo]
    held: int


def read(coco: Path, held: int = 150) -> Data:
    """Read captions and objects; nothing of a test photo is kept. Held out are photos of `train`,
    the same ones whether there is a `train_more` or not.
    """
    splits = json.loads((coco / "splits.json").read_text())
    objects = json.loads((coco / "objects_trainval2014.nltk.json").read_text())
    captions: dict[int, list[str]] = {}
    for file in sorted(coco.glob("captions_val20*.json"), reverse=True):
        for annotation in json.loads(file.read_text())["annotations"]:
            known = captions.setdefault(annotation["image_id"], [])
            if annotation["caption"] not in known:
                known.append(annotation["caption"])
    ids = sorted(splits["train"])
    random.Random(SEED).shuffle(ids)
    ids = [*sorted(splits.get("train_more", ())), *ids]

    def photo(number: int) -> Photo:
        said, there = tuple(captions.get(number, ())), tuple(objects.get(str(number), ()))
        return Photo(said, there, agreed(said, there))

    used = {number for split in splits.values() for number in split}
    others = sorted(set(captions) - used)
    return Data(ids, [photo(i) for i in ids], [photo(i) for i in others], held)


def file_of(coco: Path, number: int) -> Path:
    """Where a photo lies."""
    file = coco / "images" / f"{number:012d}.jpg"
    return file if file.exists() else coco / "images_more" / file.name


class Projector(nn.Module):
    """LLaVA's projector, behind a normalisation of the features that is folded into it
    on export.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(384, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1((features - self.mean) / self.deviation)))

    def unfold(self, weights: dict[str, Tensor]) -> None:
        """Take a stock projector's weights."""
        bias = weights["linear_1.bias"] + weights["linear_1.weight"] @ self.mean
        scaled = {
            "linear_1.weight": weights["linear_1.weight"] * self.deviation,
            "linear_1.bias": bias,
        }
        self.load_state_dict(weights | scaled, strict=False)

    def folded(self) -> dict[str, Tensor]:
        """The stock projector's weights."""
        weight = self.linear_1.weight / self.deviation
        return {
            "linear_1.weight": weight,
            "linear_1.bias": self.linear_1.bias - weight @ self.mean,
            "linear_2.weight": self.linear_2.weight,
            "linear_2.bias": self.linear_2.bias,
        }


def make_tokenizer(data: Data, file: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 3,072 tokens over the texts that will be taught."""
    if not file.exists():
        chance = random.Random(SEED)
        told = [p for p in data.photos + data.texts if p.captions]
        texts = [long_text(p, chance) for p in told for _ in range(2)]
        texts += [sentence(c) for p in data.photos + data.texts for c in p.captions]
        texts += [*LONG, *SHORT, LIST, *map(ask, CLASSES), "USER: ASSISTANT: Yes. No."] * 20
        bpe = Tokenizer(models.BPE(unk_token=None))
        bpe.pre_tokenizer, bpe.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(
            texts,
            trainers.BpeTrainer(vocab_size=3072, special_tokens=SPECIAL, initial_alphabet=alphabet),
        )
        bpe.save(str(file))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(file), bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"], padding_side="left", model_max_length=2048,
    )  # fmt: skip


def product(linear: nn.Linear, given: Tensor) -> Tensor:
    """A linear layer in bfloat16 between float32 values: matrix products are two thirds of a step's
    time.
    """
    return F.linear(given.bfloat16(), linear.weight.bfloat16()).float()


def make_decoder(vocabulary: int) -> LlamaForCausalLM:
    """Six layers of 256, eight heads, tied embeddings."""
    decoder = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=704, num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=8, max_position_embeddings=2048, tie_word_embeddings=True,
            bos_token_id=BOS,
            eos_token_id=EOS, pad_token_id=PAD,
        )
    )  # fmt: skip
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            module.forward = partial(product, module)
    return decoder


class Trainer:
    """Holds the parts and the texts; each stage is a method that loads its result where it is there
    already.
    """

    def __init__(self, coco: Path, work: Path, held: int = 150) -> None:
        torch.manual_seed(SEED)
        self.work, self.coco = work, coco
        work.mkdir(parents=True, exist_ok=True)
        self.data = read(coco, held)
        self.tokenizer = make_tokenizer(self.data, work / "tokenizer.json")
        self.decoder = make_decoder(len(self.tokenizer))
        self.before, self.after = self.tokens("USER: "), self.tokens("\n")
        self.yes, self.no = self.tokens(" Yes.")[0], self.tokens(" No.")[0]
        self.unfold: dict[str, Tensor] = {}
        words = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        self.emphasis = torch.tensor(
            [2.0 if mentioned(word, tuple(CLASSES)) else 1.0 for word in words]
        )
        self.names = [self.tokens(" " + name) for name in CLASSES]
        counts = np.array(
            [sum(name in p.objects for p in self.data.photos) for name in CLASSES], float
        )
        self.frequency = (counts + 1) / (counts + 1).sum()

    @staticmethod
    def chance(step: int) -> random.Random:
        """Draws of one step, whatever came before: a resumed run gives the same weights."""
        torch.manual_seed(SEED * 1_000_003 + step)
        return random.Random(SEED * 1_000_003 + step)

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def dialogue(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of one turn behind the image, and its labels: −100 where nothing is to be learned."""
        question, said = self.tokens(f"{prompt} ASSISTANT:"), [*self.tokens(f" {answer}"), EOS]
        return question + said, [-100] * len(question) + said

    # text alone
    # ---------------------------------------------------------------------------------------------

    def prior(self, photos: list[Photo], chance: random.Random) -> Tensor:
        """Loss of the texts of some photos, their images unseen."""
        rows, lead = [], [BOS, *self.before, *self.after]
        for photo in photos:
            prompts, text = (LONG, long_text) if chance.random() < 0.6 else (SHORT, short_text)
            ids, labels = self.dialogue(chance.choice(prompts), text(photo, chance))
            rows.append((lead + ids, [-100] * len(lead) + labels))
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([i + [PAD] * (width - len(i)) for i, _ in rows])
        labels = torch.tensor([t + [-100] * (width - len(t)) for _, t in rows])
        return self.decoder(input_ids=ids, attention_mask=(ids != PAD).long(), labels=labels).loss

    def told(self) -> list[Photo]:
        """What texts are made of: photos that are trained on, and others, with captions."""
        photos = self.data.photos[: -self.data.held] + self.data.texts
        return [photo for photo in photos if photo.captions]

    def text(self, steps: int) -> None:
        """Give the decoder a language prior."""
        file = self.work / "text.safetensors"
        if file.exists():
            self.decoder.load_state_dict(load_file(file), strict=False)
            return
        photos = self.told()
        optimizer = adam(self.decoder.parameters(), 2e-3)
        for step in range(steps):
            rate(optimizer, 2e-3, step / steps)
            chance = self.chance(step)
            loss = self.prior(chance.choices(photos, k=48), chance)
            update(self.decoder, optimizer, loss)
            if step % 50 == 0:
                print(f"text step {step}/{steps} loss {loss.item():.3f}", flush=True)
        write(self.decoder.state_dict(), file)

    def start(self, folder: Path) -> None:
        """Go on from an exported folder with this tokenizer, in place of the stage on
        text alone.
        """
        saved = load_file(folder / "model.safetensors")
        language, projector = "language_model.model.", "multi_modal_projector."
        self.decoder.model.load_state_dict(
            {
                k.removeprefix(language): v.float()
                for k, v in saved.items()
                if k.startswith(language)
            }
        )
        self.unfold = {
            k.removeprefix(projector): v.float()
            for k, v in saved.items()
            if k.startswith(projector)
        }

    # projector
    # ----------------------------------------------------------------------------------------------

    def features(self, views: int) -> list[np.memmap]:
        """Features of the first `views` views of the train photos, in the order of sorted ids."""
        tower = load_tower()
        self.row = {number: row for row, number in enumerate(sorted(self.data.ids))}
        made = [
            compute(
                tower,
                [file_of(self.coco, number) for number in sorted(self.data.ids)],
                view,
                self.work / f"train.{view}.f16",
            )
            for view in range(views)
        ]
        rows = [self.row[number] for number in self.data.ids]
        truth = np.empty((len(rows), len(CLASSES)), np.float32)
        truth[rows] = self.truth(list(range(len(rows)))).numpy()
        sure = confidence(made, truth, self.work / "confidence.npy")[rows]
        for place, photo in enumerate(self.data.photos):
            chances = dict(zip(CLASSES, sure[place], strict=True))
            seen = sorted(
                (n for n in photo.objects if chances.get(n, 0) > VISIBLE), key=lambda n: -chances[n]
            )
            self.data.photos[place] = replace(photo, visible=tuple(seen))
        return made

    def batch(self, views: list[np.memmap], some: list[int], chance: random.Random) -> Tensor:
        """Features of some photos (places in `data.ids`), each in a random view."""
        chosen = [views[chance.randrange(len(views))][self.row[self.data.ids[i]]] for i in some]
        return torch.from_numpy(np.stack(chosen).astype(np.float32))

    def truth(self, some: list[int]) -> Tensor:
        return torch.tensor(
            [[float(name in self.data.photos[i].objects) for name in CLASSES] for i in some]
        )

    def embedded_names(self) -> Tensor:
        table = self.decoder.get_input_embeddings().weight
        return torch.stack([table[torch.tensor(ids)].mean(0) for ids in self.names])

    def alignment(self, projected: Tensor, truth: Tensor) -> Tensor:
        """Multiple-instance loss: an object's name should match some patches of a photo that shows
        it.
        """
        similar = (
            F.normalize(projected, dim=-1) @ F.normalize(self.embedded_names(), dim=-1).T
        )  # photo patch class
        pooled = torch.logsumexp(similar * 20, dim=1) - math.log(projected.shape[1])
        return F.binary_cross_entropy_with_logits(pooled * self.scale.exp() + self.shift, truth)

    def align(self, views: list[np.memmap], steps: int) -> None:
        """Projector first: without this step one so small hardly grounds."""
        sample = torch.from_numpy(views[0][:200].astype(np.float32)).flatten(0, 1)
        self.projector = Projector(sample.mean(0), sample.std(0))
        if self.unfold:
            self.projector.unfold(self.unfold)
        self.scale, self.shift = (
            nn.Parameter(torch.zeros(())),
            nn.Parameter(torch.full((len(CLASSES),), -3.0)),
        )
        file = self.work / "align.safetensors"
        if file.exists():
            self.restore(load_file(file))
            return
        self.decoder.requires_grad_(False)
        parameters = [*self.projector.parameters(), self.scale, self.shift]
        count = len(self.data.ids) - self.data.held
        optimizer = adam(parameters, 2e-3)
        for step in range(steps):
            rate(optimizer, 2e-3, step / steps)
            chance = self.chance(step)
            some = chance.sample(range(count), min(64, count))
            loss = self.alignment(self.projector(self.batch(views, some, chance)), self.truth(some))
            update(self.projector, optimizer, loss)
            if step % 50 == 0:
                print(f"align step {step}/{steps} loss {loss.item():.4f}", flush=True)
        self.decoder.requires_grad_(True)
        write(self.everything(), file)

    def everything(self) -> dict[str, Tensor]:
        parts = {f"decoder.{k}": v for k, v in self.decoder.state_dict().items()}
        parts |= {f"projector.{k}": v for k, v in self.projector.state_dict().items()}
        return parts | {"scale": self.scale, "shift": self.shift}

    def restore(self, parts: dict[str, Tensor]) -> None:
        self.decoder.load_state_dict(
            {k[8:]: v for k, v in parts.items() if k.startswith("decoder.")}, strict=False
        )
        self.projector.load_state_dict(
            {k[10:]: v for k, v in parts.items() if k.startswith("projector.")}
        )
        self.scale.data.copy_(parts["scale"])
        self.shift.data.copy_(parts["shift"])

    # image and text
    # -----------------------------------------------------------------------------------------

    def branches(
        self, photo: Photo, chance: random.Random, questions: int = 4
    ) -> list[tuple[list[int], list[int], bool]]:
        """Everything asked of one photo: ids, labels, and whether it is a yes/no question."""
        turns = [(*self.dialogue(LIST, listing(photo)), False)]
        if photo.captions:  # a sentence made of names alone would be learned as a habit
            turns.append((*self.dialogue(chance.choice(LONG), long_text(photo, chance)), False))
            turns.append((*self.dialogue(chance.choice(SHORT), short_text(photo, chance)), False))
        there = [name for name in photo.objects if name in CLASSES]
        weights = [
            0.0 if name in there else f for name, f in zip(CLASSES, self.frequency, strict=True)
        ]
        for name in chance.sample(there, min(len(there), questions // 2)):
            turns.append((*self.dialogue(ask(name), "Yes."), True))
            (other,) = chance.choices(
                CLASSES, weights if chance.random() < 0.7 else [w > 0 for w in weights]
            )
            turns.append((*self.dialogue(ask(other), "No."), True))
        return turns

    def losses(
        self, features: Tensor, some: list[int], chance: random.Random, kept: int = PATCHES
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """Loss of the texts, of the yes/no answers and of the alignment, and the share of right
        answers.

        One image prefix serves all turns of a photo: a turn sees the prefix and itself. Only `kept`
        random patches of a photo are used, at their own positions: fewer are faster, and a
        regulariser.
        """
        places = torch.rand(len(some), PATCHES).topk(kept).indices.sort().values  # photo patch
        projected = self.projector(
            features.gather(1, places[..., None].expand(-1, -1, features.shape[-1]))
        )
        prefix = [BOS, *self.before]
        lead, behind = len(prefix) + kept + len(self.after), len(prefix) + PATCHES
        start = behind + len(self.after)
        turns = [self.branches(self.data.photos[i], chance) for i in some]
        width = max(sum(len(ids) for ids, _, _ in branch) for branch in turns)
        ids = torch.full((len(some), width), PAD)
        labels, kinds = torch.full_like(ids, -100), torch.zeros_like(ids)
        owner, positions = torch.full_like(ids, -1), torch.zeros_like(ids)
        for row, branch in enumerate(turns):
            at = 0
            for number, (turn, target, closed) in enumerate(branch):
                span = slice(at, at + len(turn))
                ids[row, span], labels[row, span] = torch.tensor(turn), torch.tensor(target)
                owner[row, span], positions[row, span] = number, torch.arange(len(turn)) + start
                kinds[row, span] = int(closed)
                at += len(turn)
        embed = self.decoder.get_input_embeddings()
        head = embed(torch.tensor(prefix)).expand(len(some), -1, -1)
        tail = embed(torch.tensor(self.after)).expand(len(some), -1, -1)
        inputs = torch.cat((head, projected, tail, embed(ids)), dim=1)
        total = lead + width
        allowed = torch.ones(total, total).tril().bool().repeat(len(some), 1, 1)
        allowed[:, lead:, lead:] &= owner[:, :, None] == owner[:, None]
        shared = (
            torch.arange(len(prefix)).expand(len(some), -1),
            torch.arange(behind, start).expand(len(some), -1),
        )
        where = torch.cat((shared[0], places + len(prefix), shared[1], positions), dim=1)
        hidden = self.decoder.model(
            inputs_embeds=inputs,
            attention_mask=allowed[:, None],
            position_ids=where,
            use_cache=False,
        )
        out = hidden.last_hidden_state[:, lead:-1]
        learned = labels[:, 1:] >= 0
        logits, target = self.decoder.lm_head(out[learned]), labels[:, 1:][learned]
        each = F.cross_entropy(logits, target, reduction="none")
        closed = kinds[:, 1:][learned].bool()
        answers = closed & ((target == self.yes) | (target == self.no))
        right = (logits[answers][:, self.yes] > logits[answers][:, self.no]) == (
            target[answers] == self.yes
        )
        aligned = self.alignment(projected, self.truth(some))
        weights = self.emphasis[target] * ~closed
        said = (each * weights).sum() / weights.sum()
        return said, each[closed].sum() / answers.sum(), aligned, right.float().mean().item()

    def joint(self, views: list[np.memmap], steps: int, size: int = 8, peak: float = 1e-3) -> None:
        """Image and text together, with a moving average of the weights; a checkpoint every `KEEP`
        steps.
        """
        modules = nn.ModuleDict({"decoder": self.decoder, "projector": self.projector})
        parameters = [*modules.parameters(), self.scale, self.shift]
        optimizer = adam(parameters, peak)
        average = {k: v.detach().clone() for k, v in self.everything().items()}
        file, step = self.work / "joint.safetensors", 0
        if file.exists():
            saved = load_file(file)
            step = int(saved.pop("step").item())
            self.restore({k[4:]: v for k, v in saved.items() if k.startswith("raw.")})
            average = {k[4:]: v for k, v in saved.items() if k.startswith("ema.")}
            moments = [
                {n: saved[f"opt.{i}.{n}"] for n in ("exp_avg", "exp_avg_sq", "step")}
                for i in range(len(parameters))
            ]
            optimizer.load_state_dict(
                {
                    "state": dict(enumerate(moments)),
                    "param_groups": optimizer.state_dict()["param_groups"],
                }
            )
        places = list(range(len(self.data.ids) - self.data.held))
        held = list(range(len(places), len(self.data.ids)))
        texts = self.told()
        modules.train()
        while step < steps:
            rate(optimizer, peak, step / steps)
            chance = self.chance(step)
            some = chance.sample(places, size)
            features = self.batch(views, some, chance)
            kept = FEWER if step < steps * (1 - WHOLE) else PATCHES
            text, closed, aligned, _ = self.losses(features, some, chance, kept)
            loss = text + 0.5 * closed + 0.5 * aligned
            if step % 4 == 0:
                loss = loss + 0.3 * self.prior(chance.choices(texts, k=6), chance)
            update(modules, optimizer, loss)
            step += 1
            decay = min(0.99, step / (step + 20))
            with torch.no_grad():
                for name, value in self.everything().items():
                    average[name].lerp_(value, 1 - decay)
            if step % 50 == 0:
                print(
                    f"joint step {step}/{steps} text {text:.3f} yes/no {closed:.3f} align"
                    f" {aligned:.4f}",
                    flush=True,
                )
            if step % KEEP == 0 or step == steps:
                state = {f"raw.{k}": v for k, v in self.everything().items()} | {
                    f"ema.{k}": v for k, v in average.items()
                }
                for number, moments in optimizer.state_dict()["state"].items():
                    state |= {f"opt.{number}.{k}": v for k, v in moments.items()}
                write(state | {"step": torch.tensor(step)}, file)
                raw = {name: value.detach().clone() for name, value in self.everything().items()}
                self.restore(average)
                self.judge(views[:1], held)
                self.restore(raw)

    def export(self, out: Path) -> None:
        """Write the averaged weights of the last checkpoint as a stock LLaVA folder."""
        saved = load_file(self.work / "joint.safetensors")
        self.restore({k[4:]: v for k, v in saved.items() if k.startswith("ema.")})
        export(
            self.decoder.state_dict(),
            self.projector.folded(),
            self.decoder.config,
            self.tokenizer,
            out,
        )

    @torch.no_grad()
    def judge(self, views: list[np.memmap], held: list[int]) -> None:
        """Print the losses on the held-out photos."""
        self.decoder.eval()
        chance = self.chance(-1)
        all_of = [
            self.losses(self.batch(views, held[i : i + 30], chance), held[i : i + 30], chance)
            for i in range(0, len(held), 30)
        ]
        text, closed, aligned, right = (
            float(np.mean([float(x[k]) for x in all_of])) for k in range(4)
        )
        print(
            f"held out: text {text:.3f} yes/no {closed:.3f} align {aligned:.4f} right {right:.3f}",
            flush=True,
        )
        self.decoder.train()


def adam(parameters: Any, peak: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.05)


def rate(optimizer: torch.optim.Optimizer, peak: float, done: float) -> None:
    """Linear warm-up over 2 % of the steps, then cosine to a twentieth."""
    share = (
        done / 0.02
        if done < 0.02
        else 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (done - 0.02) / 0.98))
    )
    for group in optimizer.param_groups:
        group["lr"] = peak * share


def update(module: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def write(tensors: dict[str, Tensor], file: Path) -> None:
    """Write atomically."""
    partial = file.with_suffix(".partial")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, partial)
    partial.rename(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--coco", type=Path, required=True, help="photos, captions, objects and splits"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="where features and checkpoints are kept"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the finished model")
    parser.add_argument("--steps", type=int, default=2000, help="on image and text, of 8 photos")
    parser.add_argument("--text-steps", type=int, default=400, help="on text alone, of 48 texts")
    parser.add_argument(
        "--align-steps", type=int, default=600, help="of aligning the projector, of 64 photos"
    )
    parser.add_argument("--views", type=int, default=VIEWS, help="views of every photo")
    parser.add_argument("--start", type=Path, help="a model to go on from, in place of text alone")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.start:
        arguments.work.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.start / "tokenizer.json", arguments.work / "tokenizer.json")
    trainer = Trainer(arguments.coco, arguments.work)
    views = trainer.features(arguments.views)
    if arguments.start:
        trainer.start(arguments.start)
    else:
        trainer.text(arguments.text_steps)
    trainer.align(views, arguments.align_steps)
    trainer.joint(views, arguments.steps)
    trainer.export(arguments.out)


if __name__ == "__main__":
    main()
