import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import * as wire from './protocol.ts';
import { body, name, request } from './requests.cases.ts';
import { struct } from './struct.ts';

const RECORDED = fileURLToPath(new URL('../../../test/golden/fuse/requests.txt', import.meta.url));
const recorded = readFileSync(RECORDED, 'utf8')
  .split('\n')
  .filter((l) => l !== '' && !l.startsWith('#'))
  .map((l) => {
    const [what = '', hex = ''] = l.split(' ');
    return { what, bytes: new Uint8Array(Buffer.from(hex, 'hex')) };
  });

const decoded = (bytes: Uint8Array): wire.Request => {
  const got = wire.decodeRequest(bytes);
  if (!got.ok) throw new Error(got.error.sentence);
  return got.value;
};

describe('layouts', () => {
  it('FU2 structures have the sizes of the kernel’s', () => {
    // offsetof and sizeof as a C compiler gives them for include/uapi/linux/fuse.h
    expect(wire.IN_HEADER.size).toBe(40);
    expect(wire.OUT_HEADER.size).toBe(16);
    expect(wire.INIT_IN.size).toBe(16);
    expect(wire.INIT_OUT.size).toBe(64);
    expect(wire.SETATTR_IN.size).toBe(88);
    expect(wire.READ_IN.size).toBe(40);
    expect(wire.WRITE_IN.size).toBe(40);
    expect(wire.RELEASE_IN.size).toBe(24);
    expect(wire.ATTR.size).toBe(88);
    expect(wire.ENTRY_OUT.size).toBe(40);
    expect(wire.ATTR_OUT.size).toBe(16);
    expect(wire.STATFS_OUT.size).toBe(80);
    expect(wire.DIRENT.size).toBe(24);
    expect(wire.ATTR.offset.mode).toBe(60);
    expect(wire.INIT_OUT.offset.maxPages).toBe(28);
    expect(wire.SETATTR_IN.offset.mode).toBe(68);
  });

  it('FU2 a field that would need a hole in front of it is refused when the layout is made', () => {
    expect(() => struct({ a: 'u32', b: 'u64' })).toThrow(/natural alignment \(name=b/);
  });

  it('FU2 what is written is what is read, in every layout, and 64-bit fields are exact below 2^53', () => {
    const prng = new Prng(20_261_121);
    const layouts = Object.entries(wire).filter((e): e is [string, typeof wire.ATTR] => 'offset' in Object(e[1]));
    expect(layouts.length).toBeGreaterThan(15);
    for (const [title, layout] of layouts) {
      const values: Record<string, number> = {};
      for (const [field, at] of Object.entries(layout.offset)) {
        const next = Math.min(...Object.values(layout.offset).filter((o) => o > at), layout.size);
        const width = next - at;
        values[field] =
          width === 8
            ? prng.below(2 ** 21) * 2 ** 32 + prng.next()
            : width === 4
              ? prng.next() >>> 1
              : prng.below(65_536);
      }
      const bytes = new Uint8Array(layout.size + 16);
      layout.write(bytes, 8, values);
      expect(layout.read(bytes, 8), `${title} seed=${prng.seed}`).toEqual(values);
      expect([...bytes.subarray(0, 8), ...bytes.subarray(8 + layout.size)]).toEqual(new Array(16).fill(0));
    }
  });
});

describe('requests', () => {
  it('FU2 what a real kernel sent is understood', () => {
    const said = recorded.map(({ what, bytes }) => {
      const { unique: _u, pid: _p, uid: _i, nodeid: _n, ...rest } = decoded(bytes);
      const shown = 'data' in rest ? { ...rest, data: new TextDecoder().decode(rest.data) } : rest;
      return `${what}: ${JSON.stringify(shown)}`;
    });
    expect(said).toMatchInlineSnapshot(`
      [
        "init: {"op":"init","major":7,"minor":45,"flags":1946157051}",
        "getattr: {"op":"getattr"}",
        "lookup: {"op":"lookup","name":"sys"}",
        "unknown22: {"op":"unknown","opcode":22}",
        "opendir: {"op":"opendir","flags":100352}",
        "readdir: {"op":"readdir","fh":1,"offset":0,"size":32768}",
        "forget: {"op":"forget","forgets":[{"nodeid":7,"nlookup":1},{"nodeid":6,"nlookup":1}]}",
        "releasedir: {"op":"releasedir","fh":1}",
        "open: {"op":"open","flags":32768}",
        "read: {"op":"read","fh":2,"offset":0,"size":131072}",
        "flush: {"op":"flush"}",
        "release: {"op":"release","fh":2}",
        "readlink: {"op":"readlink"}",
        "setattr: {"op":"setattr","valid":520}",
        "write: {"op":"write","fh":3,"data":"offline\\n"}",
        "interrupt: {"op":"interrupt","target":828}",
        "statfs: {"op":"statfs"}",
        "mkdir: {"op":"mkdir","name":"x"}",
        "create: {"op":"create","name":"y"}",
        "unlink: {"op":"unlink","name":"state"}",
        "rename: {"op":"rename","name":"state"}",
        "symlink: {"op":"symlink","name":"b"}",
        "link: {"op":"link","name":"l"}",
        "mknod: {"op":"mknod","name":"f"}",
        "fsync: {"op":"fsync"}",
        "unknown39: {"op":"unknown","opcode":39}",
        "unknown40: {"op":"unknown","opcode":40}",
        "unknown23: {"op":"unknown","opcode":23}",
      ]
    `);
  });

  it('FU2 names of new files lie behind their structure', () => {
    const gap = (n: number): Uint8Array => new Uint8Array(n).fill(1);
    for (const [op, n] of [
      ['create', 16],
      ['mknod', 16],
      ['mkdir', 8],
      ['rename', 8],
      ['link', 8],
      ['unlink', 0],
    ] as const)
      expect(decoded(request(op, 1, gap(n), name('état')).bytes)).toMatchObject({ op, name: 'état' });
    expect(decoded(request('rename2', 1, gap(16), name('a'), name('b')).bytes)).toMatchObject({
      op: 'rename',
      name: 'a',
    });
  });

  it('FU2 both forms of FORGET are one request', () => {
    expect(decoded(request('forget', 9, body(wire.FORGET_IN, { nlookup: 3 })).bytes)).toMatchObject({
      op: 'forget',
      forgets: [{ nodeid: 9, nlookup: 3 }],
    });
    const two = [body(wire.FORGET_ONE, { nodeid: 5, nlookup: 1 }), body(wire.FORGET_ONE, { nodeid: 6, nlookup: 2 })];
    expect(decoded(request('batchForget', 0, body(wire.BATCH_FORGET_IN, { count: 2 }), ...two).bytes)).toMatchObject({
      forgets: [
        { nodeid: 5, nlookup: 1 },
        { nodeid: 6, nlookup: 2 },
      ],
    });
  });

  it('FU1 a request cut at any byte is refused, or is what it was where only unused bytes are missing', () => {
    const optional: Record<string, number> = { init: 40 + 16 }; // newer kernels append to INIT; the first 16 bytes count
    let cuts = 0;
    for (const { what, bytes } of recorded) {
      for (let length = 0; length < bytes.length; length++) {
        expect(wire.decodeRequest(bytes.slice(0, length)).ok, `${what} ${length}`).toBe(false);
        // The same with a length that owns up to it.
        const honest = bytes.slice(0, length);
        if (length >= 4) new DataView(honest.buffer).setUint32(0, length, true);
        const got = wire.decodeRequest(honest);
        if (length < 40) expect(got.ok, `${what} ${length}`).toBe(false);
        else if (got.ok)
          expect(length, `${what} ${length}`).toBeGreaterThanOrEqual(optional[what] ?? BODY_MIN[what] ?? 40);
        cuts++;
      }
    }
    expect(cuts).toBeGreaterThan(500);
  });

  it('FU1 a count of FORGETs that is not there is refused', () => {
    const got = wire.decodeRequest(request('batchForget', 0, body(wire.BATCH_FORGET_IN, { count: 2 ** 32 - 1 })).bytes);
    expect(got.ok).toBe(false);
  });
});

/** Shortest lengths, header included, at which a request may be understood. */
const BODY_MIN: Readonly<Record<string, number>> = {
  lookup: 41,
  open: 48,
  opendir: 48,
  read: 80,
  readdir: 80,
  write: 81,
  release: 64,
  releasedir: 64,
  setattr: 128,
  interrupt: 48,
  forget: 48,
};

describe('replies', () => {
  it('FU2 directory entries are padded to eight bytes, number the next one, and never exceed the room', () => {
    const entries = ['.', '..', 'memory0', 'state-of-it'].map((n, k) => ({ name: n, ino: k + 1, type: wire.DT.DIR }));
    for (let room = 0; room <= 200; room++) {
      let offset = 0;
      const seen: string[] = [];
      for (let call = 0; call < 10; call++) {
        const page = wire.direntBody(entries, offset, room);
        expect(page.length).toBeLessThanOrEqual(room);
        expect(page.length % 8).toBe(0);
        if (page.length === 0) break;
        for (let at = 0; at < page.length; ) {
          const d = wire.DIRENT.read(page, at);
          seen.push(new TextDecoder().decode(page.subarray(at + 24, at + 24 + d.namelen)));
          expect(d.off).toBe(seen.length);
          offset = d.off;
          at += (24 + d.namelen + 7) & ~7;
        }
      }
      expect(seen).toEqual(room < 32 ? [] : room < 40 ? ['.', '..', 'memory0'] : entries.map((e) => e.name));
    }
  });

  it('FU2 an errno is negative in the header, and a reply says its own length', () => {
    expect(wire.OUT_HEADER.read(wire.replyError(8, 16), 0)).toEqual({ len: 16, error: -16, unique: 8 });
    expect(wire.OUT_HEADER.read(wire.reply(8, new Uint8Array(5)), 0)).toEqual({ len: 21, error: 0, unique: 8 });
  });
});
