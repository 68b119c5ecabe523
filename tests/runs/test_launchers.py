"""Who started this process: each launcher's variables, as they look on real machines, and those set by halves."""

import pytest

from hpm_video.runs.launchers import find_launch, first_host, join_launch, name_engine, tasks_per_node
from hpm_video.types import UserError

SLURM = {
    **{"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "5", "SLURM_NTASKS": "5"},
    **{"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "gpu[03-05,9],login"},
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
    **{"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
}
MPICH = {"PMI_SIZE": "4", "PMI_RANK": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2", "MASTER_ADDR": "node1"}
TORCHRUN = {
    **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"},
    **{"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
}
DEEPSPEED = {
    **{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "CROSS_SIZE": "1", "CROSS_RANK": "0"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (SLURM, ("srun", 3, 5, 1, 2, "gpu03")),
        (OPEN_MPI, ("mpirun", 1, 2, 1, 2, "127.0.0.1")),
        (MPICH, ("mpirun", 2, 4, 0, 2, "node1")),
        (TORCHRUN, ("torchrun", 3, 4, 1, 2, "10.0.0.1")),
        ({**TORCHRUN, "ACCELERATE_MIXED_PRECISION": "no"}, ("accelerate", 3, 4, 1, 2, "10.0.0.1")),
        (DEEPSPEED, ("deepspeed", 1, 2, 1, 2, "127.0.0.1")),
        (
            {"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1", "FLUX_TASK_LOCAL_ID": "0", "MASTER_ADDR": "a"},
            ("flux run", 1, 2),
        ),
    ],
)
def test_each_launcher_is_understood(env, expected) -> None:
    found = find_launch(env)
    assert found is not None and tuple(found)[: len(expected)] == expected
    assert 1024 < found.port < 65536


def test_all_processes_derive_the_same_meeting_place() -> None:
    places = {find_launch({**SLURM, "SLURM_PROCID": str(rank), "SLURM_NODEID": "0"})[5:] for rank in range(5)}
    assert len(places) == 1
    assert find_launch({**SLURM, "SLURM_STEP_ID": "1"})[5:] not in places  # two steps of a job may run at once
    assert find_launch({**SLURM, "MASTER_ADDR": "b", "MASTER_PORT": "7000"})[5:] == ("b", 7000)


@pytest.mark.parametrize(
    "env", [{}, {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {"OMPI_COMM_WORLD_SIZE": "1"}, {"PMI_SIZE": "x"}]
)
def test_one_process_is_alone(env) -> None:
    assert find_launch(env) is None


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"LOCAL_RANK": "0"}, "RANK is not set, but LOCAL_RANK=0 is; expected all of RANK, WORLD_SIZE, LOCAL_RANK"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK is not set, but RANK=1, WORLD_SIZE=2 are"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE is not a number"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4 with WORLD_SIZE=4; expected ranks 0 to 3"),
        (
            {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"},
            r"srun: 4 tasks \(SLURM_NTASKS\).*`srun python",
        ),
        ({**SLURM, "SLURM_LOCALID": ""}, "would train the whole run alone"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "MASTER_ADDR is not known"),
        ({"PMIX_SIZE": "2", "PMIX_RANK": "0", "MASTER_ADDR": "a"}, "the rank of this process is not known"),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "MASTER_ADDR is not known"),
        (  # two of each machine: without PMI_SIZE they would be taken for all there are
            {"MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1", "PMI_RANK": "3", "MASTER_ADDR": "a"},
            "would train the whole run alone",
        ),
    ],
)
def test_what_is_set_by_halves_is_refused_with_what_works(env, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        find_launch(env)
    assert "torchrun --nproc-per-node N -m hpm_video pretrain" in str(caught.value)


def test_joining_sets_the_variables_of_torch(monkeypatch) -> None:
    for name in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "LOCAL_WORLD_SIZE",
        "HPM_VIDEO_LAUNCHER",
    ):
        monkeypatch.setenv(name, "x")  # so that they are put back
        monkeypatch.delenv(name)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    found = join_launch()
    assert find_launch() == found == join_launch()  # a second command of the process finds the same
    assert found is not None and found.launcher == "srun"


def test_host_lists_of_slurm() -> None:
    names = ("node1", "node[1-4]", "gpu[03,07-9]", "a,b", "rack2-n[10-12]-ib,x", "")
    assert [first_host(name) for name in names] == ["node1", "node1", "gpu03", "a", "rack2-n10-ib", ""]
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1] and tasks_per_node("8") == [8] and tasks_per_node("?") == []


def test_auto_takes_the_engine_of_the_launcher(tiny_config, monkeypatch) -> None:
    auto = tiny_config(engine__kind="auto")
    assert (name_engine(auto), name_engine(auto, 1), name_engine(auto, 8)) == ("plain", "plain", "ddp")
    assert name_engine(tiny_config(engine__kind="auto", engine__zero_stage=2), 8) == "deepspeed"
    assert name_engine(tiny_config(engine__kind="fsdp"), 8) == "fsdp"
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert name_engine(auto) == "ddp"
    for name, value in DEEPSPEED.items():
        monkeypatch.setenv(name, value)
    assert name_engine(auto) == "deepspeed"
