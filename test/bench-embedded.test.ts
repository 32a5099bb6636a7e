// The bench's workloads on the embedded build, tiny, on the sources: it cannot rot. Results are judged, time never.

import { describe, expect, it } from 'vitest';
import type { Code } from '#base/specialise';
import { type Order, toPfn } from '#base/units';
import { bootAllocator } from '#mm/boot-allocator';
import { bootEmbedded } from '#mm/embedded';
import type { FrameAllocator } from '#mm/frame-allocator';
import type { Engine } from '../bench/workloads.mjs';
import { runWorkload } from '../bench/workloads.mjs';

const SIZES = { pages: 16384, ops: 20_000, boot: 2 ** 20, rounds: 1 };

const over = (a: FrameAllocator): Engine => ({
  allocPages: (order: number) => a.alloc(order as Order),
  freePages: (page: number, order: number) => a.free(toPfn(page), order as Order),
  metadataBytes: a.bytes,
});
const range = (pages: number) => ({ startPfn: toPfn(0), endPfn: toPfn(pages) });
const small =
  (frees: 'checked' | 'trusted', code: Code) =>
  (pages: number): Engine =>
    over(bootEmbedded({ ...range(pages), frees, code }));

describe('bench on the embedded build', () => {
  it('does the same work however it is compiled, and whether frees are checked', () => {
    for (const name of ['W1', 'W1b', 'W2', 'W3'] as const) {
      const expected = runWorkload(name, small('checked', 'own'), SIZES).hash;
      expect(expected, name).toBeDefined();
      expect(runWorkload(name, small('checked', 'shared'), SIZES).hash, name).toBe(expected);
      expect(runWorkload(name, small('trusted', 'own'), SIZES).hash, name).toBe(expected);
    }
  });

  it('V the verifier passes; W4 every free 2 MiB block is found, and Q what is possible is left', () => {
    const verified = runWorkload('V', small('checked', 'shared'), { ...SIZES, ops: 60_000 });
    expect(verified).toMatchObject({ ok: true, bad: 0 });
    const found = runWorkload('W4', small('checked', 'shared'), SIZES);
    expect(found.got).toBe(found.expected);
    expect(found.expected).toBeGreaterThan(0);
  });

  it('V the verifier passes on the full build behind the same interface', () => {
    const full = (pages: number): Engine => over(bootAllocator({ build: 'full', ...range(pages), code: 'shared' }));
    expect(runWorkload('V', full, { ...SIZES, ops: 30_000 })).toMatchObject({ ok: true, bad: 0 });
  });
});
