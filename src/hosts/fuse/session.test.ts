import { describe, expect, it } from 'vitest';
import { FakeKernel } from '../../../test/mount/fake-kernel.ts';
import * as wire from './protocol.ts';
import { Bench, body, name, request } from './requests.cases.ts';

const MEMORY = '/sys/devices/system/memory';
const E = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  EACCES: 13,
  EBUSY: 16,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
};
const ENOSYS = 38;
const ESTALE = 116;
const ETIMEDOUT = 110;
const state = (block: number): string => `${MEMORY}/memory${block}/state`;
const bench = (options: { steps?: number; writeTimeoutMs?: number } = {}): { b: Bench; tree: FakeKernel } => {
  const tree = new FakeKernel(options);
  return { b: new Bench(tree, options.writeTimeoutMs), tree };
};

describe('a session', () => {
  it('FU1 malformed requests are answered EIO where they name themselves, and change nothing', () => {
    const { b } = bench();
    const sent = request('open', 1, body(wire.OPEN_IN, { flags: 0 }));
    new DataView(sent.bytes.buffer).setUint32(0, 44, true);
    expect(b.send({ ...sent, bytes: sent.bytes.slice(0, 44) })?.errno).toBe(E.EIO);
    b.session.handle(new Uint8Array(12));
    expect(b.answers.size).toBe(1);
    expect(b.session.held).toEqual({ inodes: 1, files: 0, directories: 0, writes: 0 });
  });

  it('FU2 INIT agrees on the smaller minor and on flags that both know; an old kernel is refused', () => {
    const { b } = bench();
    const all = 0x7fff_ffff;
    const got = b.ask('init', 0, body(wire.INIT_IN, { major: 7, minor: 45, flags: all }), new Uint8Array(48));
    const out = wire.INIT_OUT.read(got.body, 0);
    const { BIG_WRITES, PARALLEL_DIROPS, MAX_PAGES } = wire.INIT_FLAG;
    expect(out).toMatchObject({ major: 7, minor: 31, flags: BIG_WRITES | PARALLEL_DIROPS | MAX_PAGES });
    expect(out).toMatchObject({ maxWrite: 131_072, maxPages: 32 });
    const less = b.ask('init', 0, body(wire.INIT_IN, { major: 7, minor: 31, flags: BIG_WRITES }));
    expect(wire.INIT_OUT.read(less.body, 0).flags).toBe(BIG_WRITES);
    expect(b.ask('init', 0, body(wire.INIT_IN, { major: 7, minor: 30 })).errno).toBe(71);
  });

  it('FU4 what is not supported says ENOSYS; who would add or remove is told what a kernel’s tree tells', () => {
    const { b } = bench();
    for (const opcode of [21, 22, 23, 24, 31, 37, 39, 43, 44, 46, 47, 4711])
      expect(b.ask(opcode, 1).errno).toBe(ENOSYS);
    expect(b.ask('poll', 1).errno).toBe(ENOSYS);
    const sys = b.walk(MEMORY);
    const proc = b.walk('/proc');
    const pad = new Uint8Array(16);
    expect(b.ask('create', sys, pad, name('x')).errno).toBe(E.EACCES);
    expect(b.ask('create', proc, pad, name('x')).errno).toBe(E.ENOENT);
    for (const op of ['mkdir', 'mknod', 'link', 'symlink'] as const) {
      expect(b.ask(op, sys, pad, name('x')).errno).toBe(E.EPERM);
      expect(b.ask(op, proc, pad, name('x')).errno).toBe(E.ENOENT);
    }
    for (const op of ['unlink', 'rmdir'] as const) expect(b.ask(op, sys, name('memory3')).errno).toBe(E.EPERM);
    expect(b.ask('rename2', sys, pad, name('memory3'), name('x')).errno).toBe(E.EPERM);
  });

  it('FU5 each open of a writable file has a number of its own; directories and other files keep theirs', () => {
    const { b } = bench();
    expect(b.walk(state(3))).not.toBe(b.walk(state(3)));
    expect(b.walk(`${MEMORY}/memory3/removable`)).toBe(b.walk(`${MEMORY}/memory3/removable`));
    expect(b.walk(MEMORY)).toBe(b.walk(MEMORY));
    const before = b.session.held.inodes;
    const one = b.walk(state(4));
    expect(b.session.held.inodes).toBe(before + 2); // memory4, state
    b.send(request('forget', one, body(wire.FORGET_IN, { nlookup: 1 })));
    expect(b.session.held.inodes).toBe(before + 1);
    expect(b.ask('getattr', one, new Uint8Array(16)).errno).toBe(ESTALE);
  });

  it('FU7 nothing may be cached: all validity times are 0 and a name that is missing is an error, not an entry', () => {
    const { b } = bench();
    const entry = b.ask('lookup', 1, name('proc'));
    expect(wire.ENTRY_OUT.read(entry.body, 0)).toMatchObject({
      generation: 0,
      entryValid: 0,
      attrValid: 0,
      entryValidNsec: 0,
      attrValidNsec: 0,
    });
    expect(wire.ATTR_OUT.read(b.ask('getattr', 1, new Uint8Array(16)).body, 0)).toMatchObject({ attrValid: 0 });
    expect(b.walk(`${MEMORY}/memory99`)).toBe(-E.ENOENT);
    const opened = b.ask('open', b.walk(state(3)), body(wire.OPEN_IN, { flags: 0 }));
    expect(wire.OPEN_OUT.read(opened.body, 0).openFlags & wire.FOPEN.DIRECT_IO).toBe(wire.FOPEN.DIRECT_IO);
  });

  it('FU7 modes, sizes and types are the tree’s, and everything belongs to root', () => {
    const { b } = bench();
    const attr = (path: string): object => wire.ATTR.read(b.ask('getattr', b.walk(path), new Uint8Array(16)).body, 16);
    expect(attr(state(3))).toMatchObject({ mode: 0o100644, size: 4096, uid: 0, gid: 0, mtime: 1000, blksize: 4096 });
    expect(attr('/proc/zoneinfo')).toMatchObject({ mode: 0o100444, size: 0 });
    expect(attr(MEMORY)).toMatchObject({ mode: 0o040755, size: 0 });
    expect(attr(`${MEMORY}/memory3/node0`)).toMatchObject({ mode: 0o120777 });
    const link = b.ask('readlink', b.walk(`${MEMORY}/memory3/node0`));
    expect(new TextDecoder().decode(link.body)).toBe('../../node/node0');
    expect(b.ask('readlink', b.walk(state(3))).errno).toBe(E.EINVAL);
  });

  it('FU7 a directory lists what is in it when it is opened, with types; a listing under way stays as it was', () => {
    const { b, tree } = bench();
    const list = (fh: number, offset: number): string[] => {
      const page = b.ask('readdir', 1, body(wire.READ_IN, { fh, offset, size: 4096 })).body;
      const out: string[] = [];
      for (let at = 0; at < page.length; ) {
        const d = wire.DIRENT.read(page, at);
        out.push(`${d.type}:${new TextDecoder().decode(page.subarray(at + 24, at + 24 + d.namelen))}`);
        at += (24 + d.namelen + 7) & ~7;
      }
      return out;
    };
    const dir = b.walk(MEMORY);
    const open = (): number => wire.OPEN_OUT.read(b.ask('opendir', dir, body(wire.OPEN_IN, {})).body, 0).fh;
    const fh = open();
    const all = list(fh, 0);
    expect(all.slice(0, 4)).toEqual(['4:.', '4:..', '8:auto_online_blocks', '8:block_size_bytes']);
    expect(all).toHaveLength(2 + 3 + 8);
    tree.remove(7);
    expect(list(fh, 0)).toEqual(all);
    expect(list(fh, 12)).toEqual(['8:probe']);
    expect(list(open(), 0)).not.toContain('4:memory7');
    const inside = wire.OPEN_OUT.read(b.ask('opendir', b.walk(`${MEMORY}/memory3`), body(wire.OPEN_IN, {})).body, 0).fh;
    expect(list(inside, 0)).toContain('10:node0');
    b.ask('releasedir', dir, body(wire.RELEASE_IN, { fh }));
    expect(b.ask('readdir', dir, body(wire.READ_IN, { fh, size: 4096 })).errno).toBe(ESTALE);
  });

  it('FU8 a reader gets one picture, whatever changes between two reads; a seek gets a new one', () => {
    const { b } = bench();
    const file = b.open('/proc/uptick', 0); // another text each time it is made
    const first = b.read(file, 0, 5).body;
    const rest = b.read(file, 5, 100).body;
    expect(first.length + rest.length).toBe(21); // the first text has 20 letters and a newline
    expect(b.read(file, 21).body).toHaveLength(0);
    expect(b.read(file, 0).body).toHaveLength(20); // the second text
    expect(b.read(file, 3).body).toHaveLength(16); // a seek: the third, from byte 3
    // A word of state that grows under a slow reader.
    const slow = b.open(state(3), 0);
    const bytes = [...b.read(slow, 0, 4).body];
    b.write(state(3), 'offline\n');
    expect(b.text(state(3))).toBe('going-offline\n');
    bytes.push(...b.read(slow, 4, 100).body);
    expect(String.fromCharCode(...bytes)).toBe('online\n');
    while (b.turn()) b.nowMs++;
  });

  it('FU9 a file of words is read where it is asked for, up to 2^43, and only in whole words', () => {
    const { b } = bench();
    const file = b.open('/proc/kpageflags', 0);
    const word = (k: number): [number, number] => {
      const view = new DataView(b.read(file, k * 8, 8).body.slice().buffer);
      return [view.getUint32(0, true), view.getUint32(4, true)];
    };
    expect(word(0)).toEqual([0, 0]);
    expect(word(5)).toEqual([5, 0]);
    expect(word(2 ** 40 - 1)).toEqual([0xffff_ffff, 255]);
    expect(b.read(file, 0, 131_072).body).toHaveLength(131_072);
    expect(b.read(file, 2 ** 43, 8).body).toHaveLength(0);
    expect(b.read(file, 4, 8).errno).toBe(E.EINVAL);
    expect(b.read(file, 0, 7).errno).toBe(E.EINVAL);
  });

  it('FU9 a text of more than one read comes whole', () => {
    const { b } = bench();
    const file = b.open('/proc/zoneinfo', 0);
    let length = 0;
    for (let k = 0; k < 100; k++) {
      const got = b.read(file, length, 10_000).body.length;
      if (got === 0) break;
      length += got;
    }
    expect(length).toBe(22 * 6000);
  });

  it('FU10 a sysfs file opens only for what its mode has, even for root; procfs refuses later', () => {
    const { b } = bench();
    const open = (path: string, flags: number): number => {
      const got = b.ask('open', b.walk(path), body(wire.OPEN_IN, { flags }));
      return got.errno;
    };
    const removable = `${MEMORY}/memory3/removable`;
    expect([0, 1, 2].map((f) => open(removable, f))).toEqual([0, E.EACCES, E.EACCES]);
    expect([0, 1, 2].map((f) => open(`${MEMORY}/probe`, f))).toEqual([E.EACCES, 0, E.EACCES]);
    expect([0, 1, 2].map((f) => open(state(3), f))).toEqual([0, 0, 0]);
    expect([0, 1, 2].map((f) => open('/proc/zoneinfo', f))).toEqual([0, 0, 0]);
    expect(b.answers.get(b.write('/proc/zoneinfo', 'x').unique)?.errno).toBe(E.EIO);
    expect(open(MEMORY, 0)).toBe(E.EISDIR);
    expect(b.ask('opendir', b.walk(state(3)), body(wire.OPEN_IN, {})).errno).toBe(E.ENOTDIR);
    expect(b.ask('lookup', b.walk(state(3)), name('x')).errno).toBe(E.ENOTDIR);
  });

  it('FU11 truncation and times are accepted and change nothing; modes and owners are EPERM', () => {
    const { b, tree } = bench();
    const node = b.walk(state(3));
    const set = (valid: number): number => b.ask('setattr', node, body(wire.SETATTR_IN, { valid })).errno;
    const got = b.ask('setattr', node, body(wire.SETATTR_IN, { valid: wire.FATTR.SIZE, size: 0 }));
    expect(wire.ATTR.read(got.body, 16).size).toBe(4096);
    expect(set(1 << 5)).toBe(0); // mtime
    for (const bit of [wire.FATTR.MODE, wire.FATTR.UID, wire.FATTR.GID])
      expect(set(bit | wire.FATTR.SIZE)).toBe(E.EPERM);
    expect(tree.state[3]).toBe('online');
  });

  it('FU12 an open file of a block that has left says ENODEV; its path ENOENT', () => {
    const { b, tree } = bench();
    const file = b.open(state(6), 2);
    const other = b.walk(`${MEMORY}/memory6`);
    tree.remove(6);
    expect(b.read(file).errno).toBe(E.ENODEV);
    const data = new TextEncoder().encode('offline');
    const sent = b.ask('write', file.node, body(wire.WRITE_IN, { fh: file.fh, size: data.length }), data);
    expect(sent.errno).toBe(E.ENODEV);
    expect(b.ask('getattr', other, new Uint8Array(16)).errno).toBe(E.ENOENT);
    expect(b.walk(state(6))).toBe(-E.ENOENT);
    b.ask('release', file.node, body(wire.RELEASE_IN, { fh: file.fh }));
    expect(b.read(file).errno).toBe(ESTALE);
  });
});

describe('writes', () => {
  it('FU13 another reader sees going-offline between two steps, and each turn is one step', () => {
    const { b } = bench({ steps: 50 });
    const sent = b.write(state(3), 'offline\n');
    let turns = 0;
    while (b.answers.get(sent.unique) === undefined) {
      expect(b.text(state(3))).toBe('going-offline\n');
      expect(b.turn()).toBe(true);
      turns++;
    }
    expect(turns).toBe(49);
    expect(wire.WRITE_OUT.read(b.answers.get(sent.unique)?.body ?? new Uint8Array(8), 0).size).toBe(8);
    expect(b.text(state(3))).toBe('offline\n');
    expect(b.session.held.writes).toBe(0);
    expect(b.turn()).toBe(false);
  });

  it('FU13 errnos come through: EINVAL at once, EBUSY after steps', () => {
    const { b } = bench();
    expect(b.answers.get(b.write(state(0), 'offline').unique)?.errno).toBe(E.EINVAL);
    expect(b.answers.get(b.write(state(3), 'bogus').unique)?.errno).toBe(E.EINVAL);
    const busy = b.write(state(1), 'offline');
    expect(b.answers.has(busy.unique)).toBe(false);
    while (b.turn());
    expect(b.answers.get(busy.unique)?.errno).toBe(E.EBUSY);
    expect(b.text(state(1))).toBe('online\n');
  });

  it('FU14 a second writer waits for the first, also of the same file; who needs no lock does not', () => {
    const { b, tree } = bench({ steps: 20 });
    const first = b.write(state(3), 'offline');
    const second = b.write(state(3), 'online');
    const third = b.write(state(4), 'offline');
    expect(b.answers.get(b.write(`${MEMORY}/auto_online_blocks`, 'online').unique)?.errno).toBe(0);
    expect(b.session.held.writes).toBe(3);
    const over: number[] = [];
    while (b.turn())
      for (const w of [first, second, third])
        if (b.answers.has(w.unique) && !over.includes(w.unique)) over.push(w.unique);
    expect(over).toEqual([first.unique, second.unique, third.unique]);
    expect(over.map((u) => b.answers.get(u)?.errno)).toEqual([0, 0, 0]);
    expect([tree.state[3], tree.state[4]]).toEqual(['online', 'offline']);
  });

  it('FU14 a signal ends a write with EINTR, the one at work and the one that waits', () => {
    const { b } = bench();
    const first = b.write(state(2), 'offline'); // block 2 is pinned: never over
    const second = b.write(state(3), 'offline');
    for (let k = 0; k < 100; k++) b.turn();
    b.interrupt(second.unique);
    expect(b.answers.has(second.unique)).toBe(false); // the next step says it
    b.turn();
    expect(b.answers.get(second.unique)?.errno).toBe(E.EINTR);
    expect([b.text(state(2)), b.text(state(3))]).toEqual(['going-offline\n', 'online\n']);
    b.interrupt(first.unique);
    b.interrupt(first.unique);
    b.turn();
    expect(b.answers.get(first.unique)?.errno).toBe(E.EINTR);
    expect(b.text(state(2))).toBe('online\n');
    b.interrupt(first.unique); // its answer and the signal have crossed
    b.interrupt(424_242);
    expect(b.doubled).toBe(0);
    expect(b.session.held.writes).toBe(0);
  });

  it('FU15 a deadline ends a write that takes too long with ETIMEDOUT, and no other', () => {
    const { b } = bench({ steps: 10, writeTimeoutMs: 300 });
    const endless = b.write(state(2), 'offline');
    b.nowMs = 299;
    for (let k = 0; k < 20; k++) b.turn();
    expect(b.answers.has(endless.unique)).toBe(false);
    b.nowMs = 300;
    const later = b.write(state(3), 'offline');
    while (b.turn());
    expect(b.answers.get(endless.unique)?.errno).toBe(ETIMEDOUT);
    expect(b.answers.get(later.unique)?.errno).toBe(0);
  });

  it('FU16 a write of more than a second is stepped each 5 ms only, until it is cancelled', () => {
    const { b } = bench();
    const sent = b.write(state(2), 'offline');
    expect(b.pending?.delayMs).toBe(0);
    b.nowMs = 999;
    b.turn();
    expect(b.pending?.delayMs).toBe(0);
    b.nowMs = 1000;
    b.turn();
    expect(b.pending?.delayMs).toBe(5);
    b.interrupt(sent.unique);
    b.turn();
    expect(b.answers.get(sent.unique)?.errno).toBe(E.EINTR);
    expect(b.pending).toBeUndefined();
  });

  it('FU18 before an unmount every write is brought to its end', () => {
    const { b } = bench();
    const writes = [b.write(state(2), 'offline'), b.write(state(3), 'offline'), b.write(state(4), 'offline')];
    b.session.interruptAll();
    expect(writes.map((w) => b.answers.get(w.unique)?.errno)).toEqual([E.EINTR, E.EINTR, E.EINTR]);
    expect(b.text(state(2))).toBe('online\n');
  });

  it('FU13 a write that is cancelled and never ends is a bug of the tree, and says so', () => {
    const tree = new FakeKernel();
    tree.beginWrite = () => ({ step: () => undefined, cancel: () => {} });
    const b = new Bench(tree);
    b.write(state(3), 'offline');
    expect(() => b.session.interruptAll()).toThrow(/a cancelled write does not end \(path=.*memory3\/state/);
  });
});
