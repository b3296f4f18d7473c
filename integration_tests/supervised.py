"""``wetread up`` with the fake reader: ``python -m integration_tests.supervised`` takes what `wetread up` takes."""

from dataclasses import replace

from console import supervisor
from console.up import up

#: The real roles, all but the module of the gpu role.
ROLES = tuple(
    replace(role, module="integration_tests.fake_gpu_worker") if role.name == "gpu" else role
    for role in supervisor.ROLES
)

if __name__ == "__main__":
    up(obj=ROLES)
