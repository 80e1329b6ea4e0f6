"""Settings, read from the environment once and passed in."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

TrunkSetting = Literal["auto", "eager", "compile", "openvino"]


class Settings(BaseSettings):
    """Everything an operator can set; each is an environment variable with the prefix `CAM_`."""

    model_config = SettingsConfigDict(env_prefix="CAM_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("tf_efficientnet_lite0",),
        min_length=1,
        description="networks to load, comma-separated; the first is the default",
    )
    config: Path | None = Field(None, description="TOML file with further networks and checkpoints")
    device: Annotated[tuple[str, ...], NoDecode] = Field(
        ("auto",),
        min_length=1,
        description="auto, cpu, cuda or cuda:N; a comma-separated list spreads the networks over devices",
    )
    trunk: TrunkSetting = Field(
        "auto",
        description="what runs the networks up to the named layers: auto (OpenVINO on the CPU, CUDA graphs on a GPU), "
        "eager, compile (needs a C++ compiler, and minutes to start) or openvino",
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="arithmetic up to the named layers: float32, tf32 (on a GPU, of the rest too) or bfloat16",
    )
    weights_dir: Path | None = Field(
        None, description="folder with <network>.safetensors or <network>.pth, looked in before any hub"
    )
    max_body_mib: int = Field(32, ge=1, description="largest request body in MiB")
    max_megapixels: float = Field(64, gt=0, description="largest picture in millions of pixels")
    max_targets: int = Field(16, ge=1, description="most target classes in one request")
    queue_size: int = Field(128, ge=1, description="most requests accepted and not yet answered")
    image_processes: int | None = Field(
        None, ge=1, description="processes that read and draw pictures; by default one a processor, and at least 2"
    )
    timeout_s: float = Field(120, gt=0, description="longest time from acceptance to answer in seconds")
    drain_s: float = Field(30, gt=0, description="longest time from SIGTERM to the end of the process in seconds")
    api_keys_file: Path | None = Field(
        None, description="file of API keys, a line `name: key` each; read anew when it changes"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins whose pages may call the service, comma-separated; `*` for any"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="of the log on stderr: text, json (an object a line), or auto: text on a terminal, json elsewhere",
    )

    @field_validator("models", "device", "cors_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("models")
    @classmethod
    def _no_duplicates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("config", "weights_dir", "api_keys_file", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @property
    def max_body_bytes(self) -> int:
        """Largest request body in bytes."""
        return self.max_body_mib * 2**20

    @property
    def max_pixels(self) -> int:
        """Largest picture in pixels."""
        return int(self.max_megapixels * 1e6)
