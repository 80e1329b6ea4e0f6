# The service with its pinned, hashed dependencies, run by an ordinary user.
FROM python:3.12-slim

# The home holds what PyTorch, Hugging Face and Matplotlib cache.
RUN useradd --create-home --uid 10001 service
WORKDIR /service

# Before the code, so that a change of the code does not install PyTorch again.
COPY requirements.lock .
# The list is complete but for OpenVINO's telemetry, which is not wanted.
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r requirements.lock

# The mode makes the code readable to the service whatever the umask of the checkout.
COPY --chmod=755 app/ app/
COPY --chmod=755 service_models/ service_models/

USER service
ENV CAM_HOST=0.0.0.0 CAM_PORT=8000
EXPOSE 8000

# http.client, since urllib would send the probe to a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m CMD ["python", "-c", "\
import http.client, os, sys; \
probe = http.client.HTTPConnection('127.0.0.1', int(os.environ['CAM_PORT']), timeout=4); \
probe.request('GET', '/readyz'); \
sys.exit(probe.getresponse().status != 200)"]

ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
