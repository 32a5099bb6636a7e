// Recorded guests, replayed on the engine: the same as `npm run conformance`, for the recordings in test/golden.

import * as fs from 'node:fs';
import * as path from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Recording, replay } from '#conformance/replay';
import { EXCUSED_GOAL, reportText } from '#conformance/report';
import { readCapture } from '#hosts/linux/read-capture';

const GOLDEN = path.join(import.meta.dirname, 'golden', 'conformance');

const recordingOf = (name: string): Recording => ({
  name,
  ops: fs.readFileSync(path.join(GOLDEN, name, 'ops.jsonl'), 'utf8'),
  snapshot: (dir) => {
    const capture = readCapture(path.join(GOLDEN, name, dir), { now: () => new Date(0) });
    return capture.ok ? capture.value : undefined;
  },
  blockPages: () => undefined,
});

describe('conformance', () => {
  const names = fs.readdirSync(GOLDEN).filter((n) => fs.existsSync(path.join(GOLDEN, n, 'ops.jsonl')));

  it('there are recordings of both kernels', () => {
    expect(names.length).toBeGreaterThan(5);
    expect(names.some((n) => n.startsWith('k612-'))).toBe(true);
  });

  it.each(names)('%s: nothing is wrong, and hardly anything excused', (name) => {
    const result = replay(recordingOf(name));
    const report = reportText([{ name, result }]);
    expect(result.ok && result.value.wrong, report).toEqual([]);
    if (!result.ok) return;
    expect(result.value.compared, report).toBeGreaterThan(200);
    expect(result.value.excusedCount / result.value.compared, report).toBeLessThanOrEqual(EXCUSED_GOAL);
  });

  // A comparison that cannot fail proves nothing: records that are changed must be noticed.
  const tampered = (name: string, from: RegExp, to: string): readonly string[] => {
    const recording = recordingOf(name);
    expect(from.test(recording.ops), `${from} is in ${name}`).toBe(true);
    const result = replay({ ...recording, ops: recording.ops.replace(from, to) });
    return result.ok ? result.value.wrong.map((w) => w.what) : [result.error];
  };

  it('a changed errno, zone, span or address is noticed', () => {
    const errno = tampered('dimm-basic', /("value": "bogus", "errno": )22/, '$10');
    expect(errno).toEqual(['errno: block 32 state <- bogus']);
    const zone = tampered('dimm-basic', /("block": 34, "state": "online", "valid_zones": ")Movable/, '$1Normal');
    expect(zone).toEqual(['valid_zones: block 34']);
    const span = tampered('auto-online-auto-movable', /("zone": "DMA32", "spanned": )258048/, '$1258049');
    expect(span).toEqual(['spanned: Node 0, zone DMA32']);
    const address = tampered('errors', /("hotplugged": true, "addr": )4294967296/, '$14563402752');
    expect(address).toContain('address: d1');
  });

  it('a write that is left out is noticed by what is read later', () => {
    const wrong = tampered('dimm-basic', /.*memory34\/state", "value": "online_movable", "errno": 0\}\n/, '');
    expect(wrong).toContain('state: block 34');
  });

  it('an operation that is no JSON, or lacks what it needs, is one sentence', () => {
    const broken = (ops: string): unknown => replay({ ...recordingOf('errors'), ops });
    expect(broken('{"op": "boot"')).toEqual({ ok: false, error: 'line 1 is not JSON' });
    expect(broken('{"op": "boot"}')).toEqual({ ok: false, error: 'line 1: a boot needs "memory"' });
    expect(broken('{"op": "load", "command": "true"}')).toEqual({ ok: false, error: 'the first line is not the boot' });
  });
});
