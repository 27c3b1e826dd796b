"""Tracks in memory: what they hold in dictionaries, for tests and for a look around. It ends with the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import msgspec
from msgspec import UNSET

from endcap.storage.ports import conflict, require_limit
from endcap.storage.track_search import meets, sort_tracks
from endcap.storage.tracks import (
    Condition,
    Order,
    Point,
    Stage,
    Track,
    TrackBatch,
    TrackPiece,
    deleted_track,
    missing_track,
    rank_point,
    require_batch,
    require_numbers,
    require_search,
    require_texts,
    require_track,
    stands_otherwise,
)


@dataclass
class _Kept:
    """A track and its points by name, each once."""

    track: Track
    points: dict[str, dict[tuple[int, int, bool, float], Point]] = field(default_factory=dict)


class MemoryTracks:
    """Tracks by space and id."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, _Kept]] = {}
        self._lock = Lock()

    def create(self, space: str, track: Track) -> None:
        require_track(space, track)
        with self._lock:
            tracks = self._kept.setdefault(space, {})
            if track.id in tracks:
                raise conflict("track", track.id, 0)
            named = {name: Point(name, p.value, p.at_us, p.step) for name, p in track.metrics.items()}
            copy = msgspec.structs.replace(track, params=dict(track.params), tags=dict(track.tags), metrics=named)
            tracks[track.id] = _Kept(copy, {name: {rank_point(point): point} for name, point in named.items()})

    def write(self, space: str, id: str, batch: TrackBatch) -> None:  # noqa: A002 - the port's word
        require_texts([space, id])
        require_batch(batch)
        with self._lock:
            kept = self._kept.get(space, {}).get(id)
            if kept is None:
                raise missing_track(id)
            track = kept.track
            if track.stage == "deleted" and batch.stage != "active":
                raise deleted_track(id)
            for name, value in batch.params.items():
                if track.params.get(name, value) != value:
                    raise stands_otherwise(id, name, stands=track.params[name], given=value)
            tags = {name: value for name, value in {**track.tags, **batch.tags}.items() if value is not None}
            metrics = dict(track.metrics)
            for point in batch.points:
                point = Point(point.name, float(point.value), point.at_us, point.step)  # noqa: PLW2901 - numbers are kept as floats
                kept.points.setdefault(point.name, {}).setdefault(rank_point(point), point)
                if point.name not in metrics or rank_point(point) > rank_point(metrics[point.name]):
                    metrics[point.name] = point
            kept.track = msgspec.structs.replace(
                track,
                params={**track.params, **batch.params},
                tags=tags,
                metrics=metrics,
                name=track.name if batch.name is None else batch.name,
                status=track.status if batch.status is None else batch.status,
                stage=track.stage if batch.stage is None else batch.stage,
                ended_us=track.ended_us if batch.ended_us is UNSET else batch.ended_us,
            )

    def read(self, space: str, ids: Sequence[str]) -> list[Track | None]:
        require_texts([space, *ids])
        with self._lock:
            tracks = self._kept.get(space, {})
            return [_copy(tracks[one].track) if one in tracks else None for one in ids]

    def read_points(self, space: str, id: str, name: str, *, limit: int | None = None, skip: int = 0) -> list[Point]:  # noqa: A002 - the port's word
        require_texts([space, id, name])
        limit, skip = require_limit(limit), require_limit(skip) or 0
        require_numbers([limit or 0, skip])
        with self._lock:
            kept = self._kept.get(space, {}).get(id)
            points = list(kept.points.get(name, {}).values()) if kept else []
        points.sort(key=lambda p: (p.at_us, rank_point(p)))
        return points[skip:] if limit is None else points[skip : skip + limit]

    def search(
        self,
        space: str,
        *,
        groups: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
        order: Sequence[Order] = (),
        stage: Stage | None = "active",
        limit: int,
        skip: int = 0,
    ) -> list[Track]:
        """See ``TrackStore``. Cost: a look at every track of the space."""
        require_search(conditions, order, groups=groups, limit=limit, skip=skip)
        require_texts([space])
        with self._lock:
            tracks = [kept.track for kept in self._kept.get(space, {}).values()]
        wanted = None if groups is None else frozenset(groups)
        found = [
            track
            for track in tracks
            if (stage is None or track.stage == stage)
            and (wanted is None or track.group in wanted)
            and all(meets(track, condition) for condition in conditions)
        ]
        sort_tracks(found, order)
        return [_copy(track) for track in found[skip : skip + limit]]

    def delete(self, space: str, ids: Sequence[str]) -> int:
        require_texts([space, *ids])
        with self._lock:
            tracks = self._kept.get(space, {})
            return sum(tracks.pop(one, None) is not None for one in dict.fromkeys(ids))

    def load(self, pieces: Sequence[TrackPiece]) -> None:
        for piece in pieces:
            if piece.first:
                self.delete(piece.space, [piece.track.id])
                self.create(piece.space, piece.track)
            with self._lock:
                kept = self._kept.get(piece.space, {}).get(piece.track.id)
                if kept is None:
                    raise missing_track(piece.track.id)
                for point in piece.points:
                    kept.points.setdefault(point.name, {}).setdefault(rank_point(point), point)

    def list_pieces(self) -> list[TrackPiece]:
        """All tracks with their points."""
        with self._lock:
            return [
                TrackPiece(space, kept.track, [point for points in kept.points.values() for point in points.values()], True)
                for space, tracks in self._kept.items()
                for kept in tracks.values()
            ]

    def close(self) -> None:
        """Nothing is open."""


def _copy(track: Track) -> Track:
    return msgspec.structs.replace(track, params=dict(track.params), tags=dict(track.tags), metrics=dict(track.metrics))
