"""Throughput and peak memory of counterfactuals and of a fine-tuning step, against the published way of doing it.

    python tests/benchmarks/benchmark_counterfactual.py --threads 2 --json benchmark.json
    python tests/benchmarks/benchmark_counterfactual.py --setting tiny          # a quick look

Both sides have the same weights, images, parents, classifier, batch and precision (float32), and are first checked to
give the same counterfactuals. Only the bf16/channels-last rows, which are ours alone, differ in precision.

- *literal* does what the published code does (see `literal_reference.py`): parents expanded to full resolution; for
  every intervention the image is encoded, abducted, reconstructed and decoded again (1 encoder + 3 decoder passes); a
  fine-tuning step takes 2 encoder + 4 decoder passes.
- *literal, abduct once* is the same code used more cleverly: one abduction and reconstruction (1 encoder + 2 decoder
  passes), then one decoder pass per intervention. It shows what is left when re-abduction is not counted.
- *ours* abducts once (1 encoder + 1 decoder pass) and decodes all interventions in one batch; a fine-tuning step takes
  1 encoder + 2 decoder passes.

Every row is measured in a process of its own. The time is the best of `--repeats` runs (the median is in the JSON).
`CPU speed-up` compares processor time instead, which other work on the machine disturbs less. The passes are counted, not assumed; peak memory is the process's `ru_maxrss`, and beside it what it is above the same
process before its first pass (on a GPU: the peak of allocated device memory).
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models" / "causal_hvae"))

from literal_reference import PAPER_A_192, LiteralHVAE, make_hparams, randomise

from cf_cxr.attributes import AttributeSchema
from cf_cxr.causal_graph import CausalGraph
from cf_cxr.models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from cf_cxr.models.causal_hvae import CausalHVAEModel
from cf_cxr.models.causal_hvae.convert_causal_hvae_original import config_from_hparams, convert_state_dict
from cf_cxr.models.image_mechanism import repeat_noise
from cf_cxr.training.counterfactual_finetuning.constraint import FreeEnergyConstraint
from cf_cxr.training.counterfactual_finetuning.targets import SoftTargets, readouts

SETTINGS = {
    "paper192": make_hparams(z_dim=16, **PAPER_A_192),
    "tiny": make_hparams(
        context_dim=6,
        input_res=32,
        enc_arch="32b1d2,16b1d2,8b1d2,4b1d4,1b1",
        dec_arch="1b1,4b2,8b2,16b2,32b1",
        widths=[8, 16, 24, 32, 32],
        z_max_res=16,
        bias_max_res=16,
    ),
}
SCHEMA = AttributeSchema(
    [
        {"name": "age", "kind": "continuous", "minimum": 0, "maximum": 100, "unit": "years"},
        {"name": "race", "kind": "categorical", "categories": ["White", "Asian", "Black"]},
        {"name": "sex", "kind": "binary", "categories": ["Male", "Female"]},
        {"name": "finding", "kind": "binary", "categories": ["No Finding", "Pleural Effusion"]},
    ]
)
GRAPH = CausalGraph({"age": [], "race": [], "sex": [], "finding": ["age"]})
VARIANTS = ("fp32", "channels_last", "bf16", "bf16+channels_last")


def main(argv=None):
    """Measure every row in a process of its own, print the table, write the JSON."""
    arguments = parse(argv)
    if arguments.worker:
        print(json.dumps(work(arguments, json.loads(arguments.worker))))
        return
    check = spawn(arguments, {"task": "check"})
    print(
        describe(arguments),
        f"\nboth sides agree to {check['largest_difference']:.1e} in the counterfactuals\n",
    )
    rows = []
    for task in tasks(arguments):
        for side in sides(arguments, task):
            rows.append(measured(arguments, {**task, **side}))
            print(f"  measured {rows[-1]['case']}: {rows[-1]['side']}", file=sys.stderr, flush=True)
    compare(rows)
    print(table(rows))
    if arguments.json:
        report = {"machine": describe(arguments), **check, "settings": vars(arguments), "rows": rows}
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", choices=SETTINGS, default="paper192")
    parser.add_argument("--batch", type=int, default=4, help="images per batch (default 4)")
    parser.add_argument("--interventions", type=int, nargs="*", default=[1, 4, 8], help="values of K")
    parser.add_argument("--no_finetuning", action="store_true", help="leave the fine-tuning step out")
    parser.add_argument("--ours", nargs="+", choices=VARIANTS, default=["fp32", "bf16+channels_last"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write all numbers to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def tasks(arguments):
    """The cases, each a number of interventions or the fine-tuning step."""
    cases = [{"task": "intervene", "k": k} for k in arguments.interventions]
    return cases + ([] if arguments.no_finetuning else [{"task": "finetune"}])


def sides(arguments, task):
    """Who runs the case: the literal reference (in one or two ways), then ours in each precision."""
    literal = [{"who": "literal"}] + ([{"who": "literal_once"}] if task["task"] == "intervene" else [])
    return literal + [{"who": "ours", "variant": variant} for variant in arguments.ours]


def spawn(arguments, job):
    """Run one job in a new process and return what it measured."""
    command = [sys.executable, __file__, "--worker", json.dumps(job)]
    for name in ("setting", "batch", "threads", "repeats", "device"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{job} failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(arguments, job):
    """One row of the table."""
    ours = f"ours {job.get('variant')}"
    names = {"literal": "literal", "literal_once": "literal, abduct once", "ours": ours}
    case = "CFT step" if job["task"] == "finetune" else f"abduct + K={job['k']}"
    images = arguments.batch * job.get("k", 1)
    row = {"case": case, "side": names[job["who"]], **spawn(arguments, job)}
    return {**row, "images_per_second": images / row["seconds"]}


def compare(rows):
    """Add each row's speed-up over the literal row of its case."""
    literal = {row["case"]: row for row in rows if row["side"] == "literal"}
    for row in rows:
        row["speed_up"] = literal[row["case"]]["seconds"] / row["seconds"]
        row["cpu_speed_up"] = literal[row["case"]]["cpu_seconds"] / row["cpu_seconds"]


def table(rows):
    """The rows as text."""
    head = (
        f"{'case':<15}{'side':<24}{'passes':>9}{'s/batch':>9}{'images/s':>10}{'speed-up':>10}{'CPU speed-up':>14}"
        f"{'peak MiB':>10}{'above idle':>12}"
    )
    lines = [head, "-" * len(head)]
    for row in rows:
        passes = f"{row['encoder_passes']}E+{row['decoder_passes']}D"
        lines.append(
            f"{row['case']:<15}{row['side']:<24}{passes:>9}{row['seconds']:>9.3f}{row['images_per_second']:>10.2f}"
            f"{row['speed_up']:>9.2f}x{row['cpu_speed_up']:>13.2f}x{row['peak_mib']:>10.0f}"
            f"{row['peak_above_idle_mib']:>12.0f}"
        )
    return "\n".join(lines)


def describe(arguments):
    """Machine and settings in a line."""
    device = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        device = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    if arguments.device.startswith("cuda"):
        device = torch.cuda.get_device_name(arguments.device)
    return (
        f"{arguments.setting}, batch {arguments.batch}, {arguments.device} ({device}), {arguments.threads} threads, "
        f"torch {torch.__version__}"
    )


# ------------------------------------------------------------------------------------------- in a process of its own


def work(arguments, job):
    """Build one side, run the job, return the measurements."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    hparams = SETTINGS[arguments.setting]
    reference = randomise(LiteralHVAE(hparams), gain=0.5)
    ours = CausalHVAEModel(config_from_hparams(hparams))
    ours.load_state_dict(convert_state_dict(reference.state_dict(), ours.state_dict())[0])
    batch = example_batch(hparams, arguments.batch, max(job.get("k", 1), 1), arguments.device)
    if job["task"] == "check":
        return {"largest_difference": largest_difference(reference.eval(), ours.eval(), batch)}
    model = ours if job["who"] == "ours" else reference
    del reference, ours
    model.to(arguments.device)
    variant = job.get("variant", "fp32")
    if "channels_last" in variant:
        model.to(memory_format=torch.channels_last)
        batch["x"] = batch["x"].contiguous(memory_format=torch.channels_last)
    step = {"intervene": intervention_step, "finetune": finetuning_step}[job["task"]](
        model, batch, job["who"]
    )
    autocast = torch.autocast(arguments.device.split(":")[0], torch.bfloat16, enabled="bf16" in variant)
    return measure(model, step, autocast, arguments)


def example_batch(hparams, size, k, device):
    """Images, factual attributes and k interventions; values are random, the shapes are those of paper A."""
    generator = torch.Generator().manual_seed(1)
    resolution = hparams["input_res"]
    attributes = SCHEMA.to_tensor(
        [{"age": 30 + 5 * i % 60, "race": "Asian", "sex": i % 2, "finding": i // 2 % 2} for i in range(size)]
    )
    changed = [attributes.clone() for _ in range(k)]
    for i, rows in enumerate(changed):
        if i % 2 == 0:
            rows[:, SCHEMA.index("sex")] = 1 - rows[:, SCHEMA.index("sex")]
        else:
            rows[:, SCHEMA.index("age")] = 20 + 8 * i
    return {
        "x": (torch.rand(size, 1, resolution, resolution, generator=generator) * 2 - 1).to(device),
        "attributes": attributes.to(device),
        "counterfactual_attributes": changed[0].to(device),
        "parents": SCHEMA.encode(attributes).to(device),
        "interventions": [SCHEMA.encode(rows).to(device) for rows in changed],
    }


@torch.no_grad()
def largest_difference(reference, ours, batch):
    """Between both sides' counterfactuals, given the same noise."""
    x, parents, changed = (t[:1].cpu() for t in (batch["x"], batch["parents"], batch["interventions"][0]))
    theirs = reference.counterfactual(x, parents, changed, generator=torch.Generator().manual_seed(2))
    noise = ours.abduct(x, parents, sample=True, generator=torch.Generator().manual_seed(2))
    difference = (ours.decode(noise, changed) - theirs).abs().max().item()
    if difference > 1e-4:
        raise RuntimeError(f"The two sides do not compute the same: counterfactuals differ by {difference}.")
    return difference


def intervention_step(model, batch, who):
    """A function that makes one counterfactual of every image under every intervention."""
    model.eval()
    x, parents, interventions = batch["x"], batch["parents"], batch["interventions"]

    @torch.no_grad()
    def literal():
        return [model.counterfactual(x, parents, changed) for changed in interventions]

    @torch.no_grad()
    def literal_once():
        latents = model.abduct(x, parents)
        loc, scale = model.forward_latents(latents, parents)
        u = (x - loc) / scale
        decoded = [model.forward_latents(latents, changed) for changed in interventions]
        return [(loc + scale * u).clamp(-1, 1) for loc, scale in decoded]

    @torch.no_grad()
    def ours():
        noise = model.abduct(x, parents, sample=True)
        changed = torch.stack(interventions, 1).flatten(0, 1)
        return model.decode(repeat_noise(noise, len(interventions)), changed)

    return {"literal": literal, "literal_once": literal_once, "ours": ours}[who]


def finetuning_step(model, batch, who):
    """A function that makes one step of soft counterfactual fine-tuning under do(sex), optimiser included.

    Classifier, targets, losses and optimiser are the same on both sides; the image model's part differs.
    """
    x, factual, counterfactual = batch["x"], batch["attributes"], batch["counterfactual_attributes"]
    parents, changed, beta = batch["parents"], batch["interventions"][0], 9.0
    classifier = small_classifier().to(x.device)
    constraint, targets = FreeEnergyConstraint(bound=2.0, multiplier=0.5), SoftTargets(SCHEMA)
    reached = {"sex"} | GRAPH.descendants("sex")
    affected = torch.tensor([name in reached for name in SCHEMA.names], device=x.device).expand(len(x), -1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.9), weight_decay=0.05)
    model.train()

    def literal():
        free_energy = model(x, parents, beta=beta)["elbo"]
        return free_energy, model.counterfactual(x, parents, changed)

    def ours():
        output = model(x, parents, counterfactual_parents=changed, sample_posterior=True)
        return output.loss, output.counterfactual

    image_part = {"literal": literal, "ours": ours}[who]
    if who == "ours":
        model.config.beta = beta

    def step():
        free_energy, image = image_part()
        with torch.no_grad():
            before = readouts(classifier, x)
        losses = targets(before, readouts(classifier, image), factual, counterfactual, affected)
        auxiliary = losses.mean(0).sum()
        optimizer.zero_grad(set_to_none=True)
        constraint.loss(auxiliary, free_energy).backward()
        torch.nn.utils.clip_grad_norm_(trained, 100.0)
        optimizer.step()
        constraint.update(float(free_energy.detach()))

    return step


def small_classifier():
    """A small frozen classifier, so that the image model's part is what is measured."""
    torch.manual_seed(3)
    backbone = {"model_type": "bit", "embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "num_groups": 4}
    backbone["depths"] = [1, 1, 1, 1]
    config = AttributeClassifierConfig(attributes=SCHEMA.to_list(), backbone_config=backbone)
    return AttributeClassifierModel(config).eval().requires_grad_(False)


def measure(model, step, autocast, arguments):
    """Time, count passes, and read the peak memory; the first run warms up."""
    passes = {"encoder": 0, "decoder": 0}
    for name in passes:

        def count(*_, name=name):
            passes[name] += 1

        getattr(model, name).register_forward_pre_hook(count)
    on_gpu = arguments.device.startswith("cuda")
    synchronise = torch.cuda.synchronize if on_gpu else lambda: None
    idle = torch.cuda.memory_allocated() / 2**20 if on_gpu else peak_rss()
    times, cpu_times = [], []
    for _ in range(1 + arguments.repeats):
        passes.update(encoder=0, decoder=0)
        synchronise()
        start, cpu_start = time.perf_counter(), time.process_time()
        with autocast:
            step()
        synchronise()
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_rss()
    return {
        "seconds": min(times[1:]),
        "seconds_median": statistics.median(times[1:]),
        "cpu_seconds": min(cpu_times[1:]),
        "encoder_passes": passes["encoder"],
        "decoder_passes": passes["decoder"],
        "peak_mib": peak,
        "peak_above_idle_mib": peak - idle,
    }


def peak_rss():
    """Largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
