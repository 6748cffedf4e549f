"""The actions on the store: add, list, show, verify, rm, gc."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from supervisor.cli import image
from supervisor.errors import ConfigError
from supervisor.oci import add, lock, settings
from supervisor.oci.reference import Reference, Repository, repository, requested
from supervisor.oci.store import Record, Store
from supervisor.profile import toml

_MAX_POLICY = 1 << 20


def run(options: argparse.Namespace, progress: image.Progress) -> int:
    """One action; the exit status."""
    table = {"add": _add, "list": _list, "show": _show, "verify": _verify, "rm": _remove, "gc": _collect}
    return table[options.action](options, progress)


def _store(options: argparse.Namespace) -> Store:
    if options.store:
        return Store(Path(options.store).absolute())
    root = image.folder("store", "/var/lib/supervisor", "XDG_DATA_HOME", ".local/share")
    return Store(root / "images")


def _config(name: str) -> Path:
    return image.folder(name, "/etc/supervisor", "XDG_CONFIG_HOME", ".config") / name


def _policy(options: argparse.Namespace) -> add.Policy:
    path = Path(options.trust).absolute() if options.trust else _config("trust.toml")
    if not path.exists():
        raise ConfigError(f"{path}: missing; it says whose signatures count for which repository (see the README)")
    beside = path.with_name("trusted_root.json")
    trusted_root = toml.checked(str(beside)).decode() if beside.exists() else ""
    return add.Policy(str(path), toml.checked(str(path)).decode(errors="replace"), trusted_root)


def _add(options: argparse.Namespace, progress: image.Progress) -> int:
    locked = Path(options.lock or "images.lock").absolute()
    if options.locked == (options.source is not None):
        raise ConfigError("image add: name a SOURCE, or give --locked")
    if options.locked:
        entries = lock.read(locked)
        if not entries:
            raise ConfigError(f"{locked}: missing or empty")
        wanted = [_registry(options, each.reference) for each in entries]
    else:
        wanted = [_wanted(options)]
    store, policy = _store(options), _policy(options)
    for each in wanted:
        name, tag = str(each.reference.repository), each.reference.tag
        check = bool(options.lock) and not options.update

        def accept(digest: str, name: str = name, tag: str = tag, check: bool = check) -> None:
            progress(f"{name}{f':{tag}' if tag else ''} is {digest}")
            if check:
                lock.check(locked, name, tag, digest)

        record = add.add(store, each, policy, progress, accept)
        if options.lock and not options.locked:
            lock.write(locked, record.name, record.tag, record.digest)
        _print_added(options, record)
    return 0


def _wanted(options: argparse.Namespace) -> add.Wanted:
    kind, path, text = image.source(options.source, options.name)
    if kind == "registry":
        return _registry(options, requested(text))
    plain = text == options.name
    reference = Reference(repository(text)) if plain else requested(text)
    signatures = os.path.abspath(options.signatures) if options.signatures else ""
    return add.Wanted(reference, kind, path, signatures, (), options.platform or "")


def _registry(options: argparse.Namespace, reference: Reference) -> add.Wanted:
    registries = options.registries or str(_config("registries.toml"))
    found = settings.endpoints(_host(reference.repository), registries, options.authfile or "")
    signatures = os.path.abspath(options.signatures) if options.signatures else ""
    return add.Wanted(reference, "registry", "", signatures, tuple(found), options.platform or "")


def _host(name: Repository) -> str:
    # the API of the one registry whose name is not its host's
    return "registry-1.docker.io" if name.registry == "docker.io" else name.registry


def _print_added(options: argparse.Namespace, record: Record) -> None:
    if options.json:
        print(record.model_dump_json())
        return
    print(record.reference)
    print(f"  signed by {', '.join(record.signers)} ({record.rule})")
    for each in record.predicates:
        print(f"  attested: {each}")
    made = record.contents
    print(f"  {made.files} files, {made.bytes / 1e6:.1f} MB; sealed {record.sealed_size / 1e6:.1f} MB")
    for what, count in sorted(made.dropped.items()):
        print(f"  left out: {count} {what}")
    if made.case_variants:
        print(f"  {made.case_variants} names differ from a neighbour only in case")


def _list(options: argparse.Namespace, _progress: image.Progress) -> int:
    records = _store(options).records()
    if options.json:
        print(json.dumps([_row(each) for each in records], indent=2))
    elif not records:
        print("no image is in the store; supervisor image add puts one there", file=sys.stderr)
    for each in [] if options.json else records:
        tag = f" ({each.tag})" if each.tag else ""
        print(f"{each.reference}{tag}  {each.sealed_size / 1e6:.1f} MB  signed by {', '.join(each.signers)}")
    return 0


def _row(record: Record) -> dict[str, object]:
    keys = ("name", "digest", "tag", "platform", "signers", "sealed_size", "added")
    return {"reference": record.reference, **{key: getattr(record, key) for key in keys}}


def _find(store: Store, text: str) -> Record:
    if "@" in text:
        return store.find(text)
    found = [each for each in store.records() if each.name == text]
    if len(found) != 1:
        known = "".join(f"\n  {each.reference}" for each in found)
        raise ConfigError(f"{text}: the store has {len(found)} images of this name{known}")
    return found[0]


def _show(options: argparse.Namespace, _progress: image.Progress) -> int:
    record = _find(_store(options), options.image)
    if options.json:
        print(record.model_dump_json(indent=2))
        return 0
    added = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.added))
    rows = {
        "image": record.reference,
        "tag": record.tag or "none",
        "platform": record.platform,
        "manifest": record.manifest,
        "signers": ", ".join(record.signers),
        "attested": ", ".join(record.predicates) or "nothing",
        "by": record.rule,
        "added": added,
        "layers": f"{len(record.layers)}, {sum(each.size for each in record.layers) / 1e6:.1f} MB",
        "contents": f"{record.contents.files} files, {record.contents.bytes / 1e6:.1f} MB",
        "left out": ", ".join(f"{n} {what}" for what, n in sorted(record.contents.dropped.items())) or "nothing",
        "sealed": f"{record.sealed}, {record.sealed_size / 1e6:.1f} MB",
        "command": " ".join((*record.run.entrypoint, *record.run.command)) or "none",
        "folder": record.run.folder,
        "env": ", ".join(each.partition("=")[0] for each in record.run.env) or "none",
    }
    for name, value in rows.items():
        print(f"{name:9} {value}")
    return 0


def _verify(options: argparse.Namespace, progress: image.Progress) -> int:
    store, policy = _store(options), _policy(options)
    records = [_find(store, options.image)] if options.image else store.records()
    rows = []
    for each in records:
        signers = add.verify(store, each, policy, progress)
        rows.append({"reference": each.reference, "signers": list(signers)})
        if not options.json:
            print(f"{each.reference}  ok, signed by {', '.join(signers)}")
    if options.json:
        print(json.dumps(rows, indent=2))
    return 0


def _remove(options: argparse.Namespace, _progress: image.Progress) -> int:
    store = _store(options)
    record = _find(store, options.image)
    store.remove(record.reference)
    print(json.dumps({"removed": record.reference}) if options.json else f"removed {record.reference}")
    return 0


def _collect(options: argparse.Namespace, _progress: image.Progress) -> int:
    files, size = _store(options).collect()
    text = f"{files} files, {size / 1e6:.1f} MB removed"
    print(json.dumps({"files": files, "bytes": size}) if options.json else text)
    return 0
