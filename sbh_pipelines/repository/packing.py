"""How a step packs what it stores: its threads and memory, and what it counts."""

from sbh_pipelines.repository.pack import PackPipeline, PackWriter
from sbh_pipelines.settings import BackupSettings


def pipeline(settings: BackupSettings) -> PackPipeline:
    """The threads and the byte budget of one step."""
    return PackPipeline(
        settings.memory_mib << 20, settings.pack_mib << 20, settings.seal_threads, settings.upload_threads
    )


def written(writer: PackWriter) -> dict[str, float]:
    """A finished writer's share of the counters."""
    return {
        "chunks": writer.chunks,
        "chunks_new": writer.chunks_new,
        "bytes_stored": writer.bytes_stored,
        "packs": len(writer.stored),
    }
