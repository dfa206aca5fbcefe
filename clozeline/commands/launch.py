"""`clozeline launch`: several workers on this machine, or what to run on several machines."""

import math
import os
import shlex
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from clozeline.commands import options_of
from clozeline.commands.training import TrainingFlags
from clozeline.options import Command, config_from, parse_options
from clozeline.show.terminal import results
from model.training.cluster import TF_CONFIG, Cluster, cluster_from, clusters_on, has_cluster
from model.training.config import LaunchConfig
from pipeline.child_processes import module_command
from pipeline.errors import InputError
from pipeline.standard_streams import Unfailing
from pipeline.storage.outputs import Output

TRAINS = ("pretrain", "finetune")
"""Commands that several workers can run."""


@dataclass(frozen=True, kw_only=True)
class Launch(Command):
    """Train with several workers: `clozeline launch --workers 2 -- pretrain …`.

    Starts the command after `--` once per worker, on ports of this machine; without --workers, once
    for the worker that TF_CONFIG, Slurm or Kubernetes names. Lines of the workers get a prefix;
    standard output of the first worker stays as it is. If one worker fails, all end, and the exit
    code is its own. Ctrl-C, SIGTERM and SIGHUP save a checkpoint and end all.
    """

    command: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Command that each worker runs, after --: pretrain or finetune with its flags."""
    workers: int | None = None
    """Number of workers to start on this machine."""
    hosts: str | None = None
    """Machines, as HOST,HOST,… or HOST:PORT. Print the command for each machine; start nothing."""
    restart: int = LaunchConfig.restart
    """How many times to start the workers again from the last checkpoint after one has failed. On
    several machines, the survivors continue, with the lost worker if it comes back in time."""
    grace_secs: float = LaunchConfig.grace_secs
    """Seconds that workers have to save and end when they are stopped; then they are killed."""

    def __post_init__(self) -> None:
        """Check the values, and the flags of the command after `--`.

        Raises:
            InputError: a flag is missing or out of range, or several workers cannot run the
                command.
        """
        if self.hosts is not None:
            self.refuse_given("`hosts` prints commands and starts nothing; leave it out", "workers")
            if not self.restart:
                self.refuse_given("without `restart`, the printed commands have none", "grace_secs")
            clusters_on(self.hosts.split(","))
        elif self.workers is None:
            if not has_cluster(os.environ):
                raise InputError(
                    "`workers`: missing; give the number of workers, or `hosts`, or set TF_CONFIG"
                )
            cluster_from(os.environ)
        self.engine_config()

    def _training(self) -> TrainingFlags:
        """Return the options of the command after `--`.

        Raises:
            InputError: a flag is missing or out of range, or several workers cannot run it.
        """
        if not self.command or self.command[0] not in TRAINS:
            what = self.command[0] if self.command else "nothing"
            raise InputError(
                f"after --, expected {' or '.join(TRAINS)} with its flags; received {what}"
            )
        name, *arguments = self.command
        options, _ = parse_options(options_of(name), f"clozeline {name}", arguments)
        assert isinstance(options, TrainingFlags)
        if options.strategy not in ("auto", "multi-worker"):
            raise InputError(
                f"`strategy` {options.strategy}: workers need multi-worker; leave it out"
            )
        return options

    def engine_config(self) -> LaunchConfig:
        """Return the engine's config."""
        training = self._training()
        # gcd(n, 0) is n: without a second phase, the first one decides.
        second = getattr(training, "phase2_batch_size", None) or 0
        return config_from(
            self,
            LaunchConfig,
            command=(*module_command("clozeline"), *self.command),
            worker_timeout_secs=training.worker_timeout_secs,
            # Survivors must divide the batch of both phases, so that a restart with fewer workers
            # is possible.
            shared_examples=math.gcd(training.batch_size, second) // training.accumulation_steps,
        )

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the workers of this machine write."""
        if self.hosts is not None:
            return []
        training = self._training()
        # The first worker writes the run; with `workers` it is on this machine.
        return training.engine_config().outputs if self.workers else training.outputs

    def run(self) -> dict[str, Any]:
        """Run the workers until they have finished, or print the commands."""
        if self.hosts is not None:
            return self._print_commands(clusters_on(self.hosts.split(",")))
        from model.training.launcher import launch

        launched = launch(self.engine_config(), show)
        return {"workers": launched.workers, "restarts": launched.restarts}

    def _print_commands(self, clusters: list[Cluster]) -> dict[str, Any]:
        commands = []
        for cluster in clusters:
            address = cluster.addresses[cluster.index]
            # Quoted for a shell: the commands are copied to other machines.
            setting = f"{TF_CONFIG}={shlex.quote(cluster.tf_config)}"
            command = shlex.join(["clozeline", *self._supervisor(), *self.command])
            commands.append({"address": address, "command": f"{setting} {command}"})
            results.print(f"# {cluster}, on {address.rpartition(':')[0]}:")
            results.print(commands[-1]["command"])
        return {"commands": commands}

    def _supervisor(self) -> list[str]:
        """Return the part of a printed command that starts its worker again after a failure."""
        flags = [f"--restart={self.restart}", f"--grace-secs={self.grace_secs:g}"]
        return ["launch", *flags, "--"] if self.restart else []


def show(index: int, stream: Literal["stdout", "stderr"], line: str) -> None:
    """Print a line of a worker: with a prefix, unless it is a result of the first worker."""
    # The end of the line is in the same call: `print` writes it in another, and several threads
    # write here.
    is_result = index == 0 and stream == "stdout"
    # A worker whose output nobody took any more would wait for ever.
    file = Unfailing(sys.stdout if is_result else sys.stderr)
    file.write(line if is_result else f"[{index + 1}] {line.rstrip(os.linesep)}\n")
    file.flush()
