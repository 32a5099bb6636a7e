// Kernel modules of a Debian kernel package, in the order in which they can be inserted.
//
//   wanted: virtio_mem  ──.modinfo "depends=virtio,virtio_ring"──>  virtio_ring, virtio, virtio_mem
//
// A package that is only unpacked has no modules.dep (depmod makes it at installation), so the dependencies are read out of
// the modules themselves: .modinfo is a list of NUL-terminated "key=value". What a kernel has built in is no file, and no error.

import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Name as modprobe knows it: no folder, no suffix, underscores. */
const nameOf = (file) =>
  file
    .split('/')
    .pop()
    .replace(/\.ko(\.xz)?$/, '')
    .replaceAll('-', '_');

function readModule(file) {
  if (!file.endsWith('.xz')) return readFileSync(file);
  const unpacked = spawnSync('xz', ['-dc', file], { maxBuffer: 64 << 20 });
  if (unpacked.status !== 0)
    throw new Error(`${file} could not be unpacked: ${unpacked.error?.message ?? 'xz failed'}`);
  return unpacked.stdout;
}

function dependsOf(data) {
  const text = data.toString('latin1');
  const at = text.search(/[\0\x01]depends=/);
  if (at < 0) return [];
  const list = text.slice(at + '?depends='.length, text.indexOf('\0', at + 1));
  return list
    .split(',')
    .filter((d) => d !== '')
    .map((d) => d.replaceAll('-', '_'));
}

/**
 * @param root lib/modules/<version> of an unpacked package
 * @param wanted module names; those that are no file (built in, or not in this kernel) are left out
 * @returns [{ name, data }], each after what it needs; cost: one walk over the folder, one read per module
 */
export function modulesFor(root, wanted) {
  const files = new Map();
  for (const path of readdirSync(root, { recursive: true })) {
    if (/\.ko(\.xz)?$/.test(path)) files.set(nameOf(path), join(root, path));
  }
  const done = new Map();
  const add = (name) => {
    const file = files.get(name);
    if (file === undefined || done.has(name)) return;
    const data = readModule(file);
    for (const needed of dependsOf(data)) add(needed);
    done.set(name, data);
  };
  for (const name of wanted) add(name);
  return [...done].map(([name, data]) => ({ name, data }));
}
