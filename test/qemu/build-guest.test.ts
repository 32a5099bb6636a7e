// What the guest is made of, without a guest: the archive, and modules in the order of need. Part of the ordinary run.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type GuestFile, writeCpio } from '../../tools/guest/cpio.mjs';
import { modulesFor } from '../../tools/guest/modules.mjs';

/** A naive reader: each entry's name, mode in octal, and data. */
function readCpio(archive: Buffer): { name: string; mode: string; data: string }[] {
  const out: { name: string; mode: string; data: string }[] = [];
  for (let at = 0; ; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (k: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * k, at + 14 + 8 * k), 16);
    const nameEnd = at + 110 + field(11);
    const name = archive.toString('utf8', at + 110, nameEnd - 1);
    if (name === 'TRAILER!!!') return out;
    const dataAt = Math.ceil(nameEnd / 4) * 4;
    const dataEnd = dataAt + field(6);
    out.push({ name, mode: field(1).toString(8), data: archive.toString('utf8', dataAt, dataEnd) });
    at = Math.ceil(dataEnd / 4) * 4;
  }
}

describe('the archive of the guest', () => {
  const files: [string, GuestFile][] = [
    ['/usr/bin/tool', { data: Buffer.from('three'), program: true }],
    ['/bin/sh', { link: 'busybox' }],
    ['/dev/console', { device: [5, 1] }],
    ['/etc/odd', { data: Buffer.from('12345678') }],
  ];

  it('holds every file with its mode, and the folders above it before it', () => {
    expect(readCpio(writeCpio(new Map(files)))).toEqual([
      { name: 'bin', mode: '40755', data: '' },
      { name: 'bin/sh', mode: '120777', data: 'busybox' },
      { name: 'dev', mode: '40755', data: '' },
      { name: 'dev/console', mode: '20600', data: '' },
      { name: 'etc', mode: '40755', data: '' },
      { name: 'etc/odd', mode: '100644', data: '12345678' },
      { name: 'usr', mode: '40755', data: '' },
      { name: 'usr/bin', mode: '40755', data: '' },
      { name: 'usr/bin/tool', mode: '100755', data: 'three' },
    ]);
  });

  it('is the same, byte for byte, in whichever order the files come', () => {
    const archive = writeCpio(new Map(files));
    expect(writeCpio(new Map(files.toReversed())).equals(archive)).toBe(true);
  });
});

describe('modules of a kernel package', () => {
  const root = mkdtempSync(join(tmpdir(), 'dimmer-modules-'));
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  const module = (path: string, depends: string): void => {
    mkdirSync(join(root, path, '..'), { recursive: true });
    writeFileSync(join(root, path), `\x7fELF junk\0license=GPL\0depends=${depends}\0name=x\0more`);
  };
  module('kernel/drivers/virtio/virtio_ring.ko', '');
  module('kernel/drivers/virtio/virtio.ko', 'virtio_ring');
  module('kernel/drivers/virtio/virtio-mem.ko', 'virtio,virtio_ring');
  module('kernel/lib/unwanted.ko', '');

  it('come after what they need, once each; what is no file is left out', () => {
    const order = modulesFor(root, ['virtio_mem', 'built_in', 'virtio']).map((m) => m.name);
    expect(order).toEqual(['virtio_ring', 'virtio', 'virtio_mem']);
  });
});
