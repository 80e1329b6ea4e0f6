"""`make bench`: measures everything in one run and writes benchmarks/RESULTS.md."""

from app.process import prepare_process

# As the service's own process is prepared, before PyTorch is loaded.
prepare_process()

from benchmarks.suite import main  # noqa: E402

if __name__ == "__main__":
    main()
