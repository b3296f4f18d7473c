"""The gpu role: ``celery -A worker.gpu_worker worker -Q gpu``, or `main` under the supervisor.

One child per GPU; the model is loaded once, when the child starts, and never in the parent.
"""

from casebook import celery_role

app = celery_role.build_role_app("gpu", concurrency=1)


def main() -> None:
    """Work until told to stop."""
    celery_role.work(app)


if __name__ == "__main__":
    main()
