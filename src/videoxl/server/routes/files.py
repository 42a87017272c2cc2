"""Files, and uploads in parts: as OpenAI's, with the bytes going straight to disk."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from videoxl.server.incoming import receive_form
from videoxl.server.problems import ApiError, missing
from videoxl.server.schemas import (
    CompleteRequest,
    Deleted,
    FileFacts,
    FileLink,
    FileList,
    FileObject,
    IndexObject,
    PartObject,
    UploadObject,
    UploadRequest,
)
from videoxl.server.services import Owner, Services, Serving
from videoxl.server.store import StoredFile, Upload

router = APIRouter(prefix="/v1", tags=["files"])
MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "default": "user_data"},
                    },
                }
            }
        },
    }
}
PART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}
COPY_BYTES = 4 * 2**20


def file_object(serving: Services, file: StoredFile) -> FileObject:
    """A file as clients see it."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created,
        filename=file.name,
        purpose=file.purpose,
        videoxl=FileFacts(index=index_object(serving, file)),
    )


def index_object(serving: Services, file: StoredFile) -> IndexObject | None:
    """Whether search finds a file. Errors name it as its owner does."""
    found = serving.library.state(serving.store.path_of(file))
    if found is None:
        return None
    reason = found.reason and found.reason.replace(file.sha256, file.name)
    return IndexObject(status=found.status, reason=reason, tracks=[*found.tracks])


@router.post("/files", openapi_extra=MULTIPART)
async def upload_file(request: Request, serving: Serving, owner: Owner) -> FileObject:
    """Upload a file in one request."""
    target, room = serving.store.incoming(), serving.room(owner, serving.settings.limits.file_bytes)
    form = await receive_form(request, target, file_field="file", room=room)
    name, purpose = form.name or "video", form.fields.get("purpose", "user_data")[:100]
    return file_object(serving, await run_in_threadpool(keep, serving, target, owner, name, form.sha256, purpose))


def keep(serving: Services, content: Path, owner: str, name: str, sha256: str, purpose: str) -> StoredFile:
    """Take over a file that has come in; whatever happens, ``content`` is gone."""
    try:
        size = content.stat().st_size
        if size == 0:
            raise ApiError("the file is empty", "empty_file", param="file")
        serving.room(owner, size).require(size)
        return serving.store.add_file(content, owner, name[:500], sha256, purpose)
    finally:
        content.unlink(missing_ok=True)


@router.get("/files")
def list_files(serving: Serving, owner: Owner) -> FileList:
    """Your files."""
    return FileList(data=[file_object(serving, file) for file in serving.store.files(owner)])


@router.get("/files/{file_id}")
def get_file(file_id: str, serving: Serving, owner: Owner) -> FileObject:
    """One of your files."""
    return file_object(serving, serving.file(file_id, owner))


@router.delete("/files/{file_id}")
def delete_file(file_id: str, serving: Serving, owner: Owner) -> Deleted:
    """Remove a file. Memories that were made of it stay; readings that wait for it fail."""
    serving.store.delete_file(serving.file(file_id, owner))
    return Deleted(id=file_id, object="file")


@router.get("/files/{file_id}/content", response_class=FileResponse)
def get_content(file_id: str, serving: Serving, owner: Owner) -> FileResponse:
    """The bytes of a file, also parts of it (``Range``)."""
    file = serving.file(file_id, owner)
    if not serving.store.path_of(file).exists():
        raise ApiError(f"the content of {file_id} has gone from the server's disk", "file_missing")
    guessed = mimetypes.guess_type(file.name)[0] or ""
    media = guessed if guessed.startswith(("video/", "image/", "audio/")) and "svg" not in guessed else ""
    headers = {"Content-Security-Policy": "default-src 'none'; media-src 'self'; sandbox"}
    return FileResponse(
        serving.store.path_of(file),
        media_type=media or "application/octet-stream",
        headers=headers,
        filename=file.name,
        content_disposition_type="inline" if media else "attachment",
    )


@router.get("/files/{file_id}/thumbnails/{milliseconds}", response_class=Response, responses=PICTURE)
def get_thumbnail(
    file_id: str, milliseconds: Annotated[int, InPath(ge=0, le=2**53)], serving: Serving, owner: Owner
) -> Response:
    """The small picture nearest to a moment, as JPEG."""
    picture = serving.library.thumbnail(serving.store.path_of(serving.file(file_id, owner)), milliseconds / 1000)
    if picture is None:
        raise missing("picture", f"{file_id} at {milliseconds}", "not_found")
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


@router.post("/files/{file_id}/link")
def link_file(file_id: str, serving: Serving, owner: Owner) -> FileLink:
    """A link to the content that needs no key and is good for a while."""
    path = f"/v1/files/{quote(serving.file(file_id, owner).id)}/content"
    return FileLink(url=f"{path}?{serving.links.query(path, owner)}", expires_in=serving.settings.link_seconds)


# ------------------------------------------------------------------------------------------------ in parts


@router.post("/uploads")
def begin_upload(body: UploadRequest, serving: Serving, owner: Owner) -> UploadObject:
    """Begin an upload in parts, which can be gone on with after it was cut off."""
    serving.store.end_old_uploads(time.time() - 86400 * serving.settings.limits.upload_days)
    serving.room(owner, serving.settings.limits.file_bytes).require(body.bytes, "bytes")
    name = os.path.basename(body.filename) or "video"
    return _upload_object(serving, serving.store.add_upload(owner, name, body.bytes, body.purpose))


@router.get("/uploads/{upload_id}")
def get_upload(upload_id: str, serving: Serving, owner: Owner) -> UploadObject:
    """An upload, with the parts that came."""
    return _upload_object(serving, _upload(serving, upload_id, owner))


@router.post("/uploads/{upload_id}/parts", openapi_extra=PART)
async def add_part(upload_id: str, request: Request, serving: Serving, owner: Owner) -> PartObject:
    """Send the next part."""
    upload = _pending(serving, upload_id, owner)
    target, room = serving.store.incoming(), serving.room(owner, serving.settings.limits.part_bytes)
    await receive_form(request, target, file_field="data", room=room)
    try:
        if target.stat().st_size == 0:
            raise ApiError("the part is empty", "empty_file", param="data")
        came = sum(size for _, size in serving.store.parts(upload))
        if came + target.stat().st_size > upload.bytes:
            raise ApiError(f"the parts are larger than the {upload.bytes:,} bytes that were announced", "too_large")
        part = await run_in_threadpool(serving.store.add_part, upload, target)
    finally:
        target.unlink(missing_ok=True)
    if part is None:
        raise ApiError("this upload has ended meanwhile", "upload_ended", 409)
    return PartObject(id=part[0], upload_id=upload.id, bytes=part[1])


@router.post("/uploads/{upload_id}/complete")
def complete_upload(upload_id: str, body: CompleteRequest, serving: Serving, owner: Owner) -> UploadObject:
    """Put the parts together, in the order given."""
    upload = _pending(serving, upload_id, owner)
    known = dict(serving.store.parts(upload))
    if unknown := [part for part in body.part_ids if part not in known]:
        raise missing("part", unknown[0], "part_missing")
    if len(set(body.part_ids)) != len(body.part_ids):
        raise ApiError("a part is named twice", "invalid_value", param="part_ids")
    if (size := sum(known[part] for part in body.part_ids)) != upload.bytes:
        raise ApiError(f"the parts have {size:,} bytes, and {upload.bytes:,} were announced", "invalid_value")
    with serving.store.completing(upload) as alone:
        if not alone:
            raise ApiError("this upload is being completed", "upload_ended", 409)
        file = _completed(serving, upload, body)
        serving.store.end_upload(upload, "completed", file.id)
    return _upload_object(serving, _upload(serving, upload_id, owner))


@router.post("/uploads/{upload_id}/cancel")
def cancel_upload(upload_id: str, serving: Serving, owner: Owner) -> UploadObject:
    """Give an upload up; its parts are removed."""
    serving.store.end_upload(_pending(serving, upload_id, owner), "cancelled")
    return _upload_object(serving, _upload(serving, upload_id, owner))


def _completed(serving: Services, upload: Upload, body: CompleteRequest) -> StoredFile:
    target = serving.store.incoming()
    try:
        sha256 = _joined(serving, body.part_ids, target)
        if body.sha256 not in (None, sha256):
            raise ApiError(f"the content has the SHA-256 {sha256}, not the one given", "checksum", param="sha256")
        # The parts, which are counted already, go when the file is kept.
        return serving.store.add_file(target, upload.owner, upload.name, sha256, upload.purpose)
    finally:
        target.unlink(missing_ok=True)


def _joined(serving: Services, part_ids: list[str], target: Path) -> str:
    hashed = hashlib.sha256()
    with open(target, "xb") as out:
        for part in part_ids:
            with open(serving.store.incoming(part), "rb") as file:
                while chunk := file.read(COPY_BYTES):
                    hashed.update(chunk)
                    out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return hashed.hexdigest()


def _upload(serving: Services, upload_id: str, owner: str) -> Upload:
    if (found := serving.store.upload(upload_id, owner)) is None:
        raise missing("upload", upload_id, "upload_missing")
    return found


def _pending(serving: Services, upload_id: str, owner: str) -> Upload:
    upload = _upload(serving, upload_id, owner)
    if upload.status != "pending":
        raise ApiError(f"this upload is {upload.status}", "upload_ended", 409)
    return upload


def _upload_object(serving: Services, upload: Upload) -> UploadObject:
    file = serving.store.file(upload.file_id, upload.owner) if upload.file_id else None
    parts = [PartObject(id=part, upload_id=upload.id, bytes=size) for part, size in serving.store.parts(upload)]
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=upload.created,
        filename=upload.name,
        purpose=upload.purpose,
        status=upload.status,
        parts=parts,
        file=file_object(serving, file) if file else None,
    )
