// DMA rules: what is refused, what is the same rule in other words, and who may share a pool with whom.

import { describe, expect, it } from 'vitest';
import { extent, framesOf } from './dma-extent.ts';
import { type DmaForm, type DmaRule, formOfRule, leastStrictFirst, restricted, satisfies } from './dma-rule.ts';

const K = 1024;
const M = 1024 * K;
const G = 1024 * M;
const gib = (n: number): number => n * framesOf(30);

const form = (rule: DmaRule): DmaForm => {
  const made = formOfRule(rule);
  if (!made.ok) throw new Error(made.error.message);
  return made.value;
};
const key = (rule: DmaRule): string => form(rule).key;
/** What a file may hold, whatever its types. */
const raw = (fields: Record<string, unknown>): DmaRule => fields as DmaRule;

describe('checking', () => {
  it.each<[string, DmaRule]>([
    ['addrMax: 11 bits', { addrMax: { bits: 11 } }],
    ['addrMax: 65 bits', { addrMax: { bits: 65 } }],
    ['addrMax: 24.5 bits', { addrMax: { bits: 24.5 } }],
    ['addrMax: -1 is no address', { addrMax: { highest: -1 } }],
    ['addrMax: no whole page lies below 4094', { addrMax: { highest: 4094 } }],
    ['addrMax: bits and highest', { addrMax: { bits: 32, highest: 4 * G - 1 } }],
    ['addrMax: wants bits or highest', raw({ addrMax: 32 })],
    ['addrMax: wants bits or highest', raw({ addrMax: {} })],
    ['sameHighBits: 0', { sameHighBits: 0 }],
    ['sameHighBits: 53', { sameHighBits: 53 }],
    ['windowBits: 11', { windowBits: 11 }],
    ['windowBits: 64', { windowBits: 64 }],
    ['windowBits: 34 is not 64 - 34', { sameHighBits: 34, windowBits: 34 }],
    ['windowBits: a window of 4G is above addrMax, which ends at 16M', { addrMax: { bits: 24 }, windowBits: 32 }],
    ['sameHighBits: a window of 4G is above addrMax', { addrMax: { highest: 3 * G - 1 }, sameHighBits: 32 }],
    ['align: 0', { align: 0 }],
    ['align: 6144', { align: 6144 }],
    ['align: a multiple of 32M is above addrMax', { addrMax: { bits: 24 }, align: 32 * M }],
    ['align: 128K is more than the window, 64K', { windowBits: 16, align: 128 * K }],
    ['boundary: 12288', { boundary: 3 * 4096 }],
    ['boundary: 2048 is less than a page', { boundary: 2048 }],
    ['boundary: 64K is less than align, 128K', { boundary: 64 * K, align: 128 * K }],
    ['maxSegments: 0', { maxSegments: 0 }],
    ['maxSegments: 1.5', { maxSegments: 1.5 }],
    ['maxSegments: 2 segments contradict contiguous', { contiguous: true, maxSegments: 2 }],
    ['contiguous: yes', raw({ contiguous: 'yes' })],
    ['coherent: 1', raw({ coherent: 1 })],
    ['encryptedShared: null', raw({ encryptedShared: null })],
    ['node: near', raw({ node: { nodes: [0], strength: 'near' } })],
    ['node: wants at least one', { node: { nodes: [], strength: 'required' } }],
    ['node: -1 is no node', { node: { nodes: [-1], strength: 'required' } }],
    ['node: wants nodes and strength', raw({ node: null })],
    ['lifetime: driver', raw({ lifetime: 'driver' })],
    ['mask: a DMA rule has no such field', raw({ mask: 32 })],
  ])('DR1 refuses "%s" with EINVAL', (message, rule) => {
    const refused = formOfRule(rule);
    expect(refused.ok ? refused.value.key : [refused.error.errno, refused.error.message]).toEqual([
      'EINVAL',
      expect.stringContaining(message),
    ]);
    expect(refused.ok ? '' : refused.error.message).toMatch(/^[a-zA-Z]+: /);
  });

  it('DR1 what is unusual but has a meaning is no refusal', () => {
    const all = key({});
    expect(key({ addrMax: { highest: 2 ** 64 } })).toBe(all);
    expect(key({ sameHighBits: 1 })).toBe(all); // half of a space that no machine fills
    expect(key({ maxSegments: 1, contiguous: true })).toBe(key({ contiguous: true }));
    expect(key({ addrMax: { highest: 4095 } })).toContain('ranges=0-1,');
  });
});

describe('spellings', () => {
  it('DR2 sameHighBits n is a window of 2^(64-n) bytes: 32 is 4 GiB, 34 is 1 GiB, 26 is 256 GiB', () => {
    const windows = [32, 34, 26].map((n) => 2 ** form({ sameHighBits: n }).windowBits / G);
    expect(windows).toEqual([4, 1, 256]);
  });

  it('DR3 windowBits k is a window of 2^k bytes; both spellings agree or are refused', () => {
    const windows = [32, 34, 26].map((k) => 2 ** form({ windowBits: k }).windowBits / M);
    expect(windows).toEqual([4 * K, 16 * K, 64]);
    expect(key({ windowBits: 30 })).toBe(key({ sameHighBits: 34 }));
    expect(key({ windowBits: 30, sameHighBits: 34 })).toBe(key({ sameHighBits: 34 }));
  });

  it('DR4 addrMax as bits and as the highest address is the same; part of a page above does not count', () => {
    expect(key({ addrMax: { bits: 24 } })).toBe(key({ addrMax: { highest: 16 * M - 1 } }));
    expect(key({ addrMax: { highest: 16 * M + 100 } })).toBe(key({ addrMax: { bits: 24 } }));
    expect(key({ addrMax: { bits: 64 } })).toBe(key({}));
    expect(key({ addrMax: { bits: 52 } })).toBe(key({ addrMax: { bits: 64 } })); // no machine has more
    expect(form({ addrMax: { bits: 36 } }).ranges).toEqual([extent(0, gib(64))]);
  });

  it('DR5 contiguous is one segment; an alignment below a page is a page; node lists are sets', () => {
    expect(key({ contiguous: true })).toBe(key({ maxSegments: 1 }));
    expect(key({ align: 64 })).toBe(key({}));
    expect(key({ node: { nodes: [3, 1, 3], strength: 'required' } })).toBe(
      key({ node: { nodes: [1, 3], strength: 'required' } }),
    );
  });

  it('DR6 what says nothing is not in the form: a window of all addresses, a boundary that no window crosses', () => {
    expect(key({ addrMax: { bits: 32 }, windowBits: 32 })).toBe(key({ addrMax: { bits: 32 } }));
    expect(key({ addrMax: { bits: 32 }, boundary: 4 * G })).toBe(key({ addrMax: { bits: 32 } }));
    expect(key({ windowBits: 26, boundary: G })).toBe(key({ windowBits: 26 }));
    expect(key({ windowBits: 26, boundary: M })).not.toBe(key({ windowBits: 26 }));
  });

  it('DR7 the lifetime is no part of the form: both share a pool', () => {
    expect(key({ lifetime: 'boot' })).toBe(key({ lifetime: 'module' }));
  });
});

describe('who serves whom', () => {
  it('DR8 a pool below 4 GiB serves 32-bit devices, whatever rule it was made for', () => {
    const fibreChannel = form({ windowBits: 30 });
    const legacy = form({ addrMax: { bits: 32 } });
    expect(satisfies(fibreChannel, legacy)).toBe(false);
    expect(satisfies(restricted(fibreChannel, [extent(gib(3), gib(4))]), legacy)).toBe(true);
    expect(satisfies(restricted(fibreChannel, [extent(gib(4), gib(5))]), legacy)).toBe(false);
  });

  it('DR8 a pool in one window serves narrower ones only when it has become as narrow', () => {
    const wide = form({ windowBits: 32 });
    const narrow = form({ windowBits: 26 });
    expect([satisfies(narrow, wide), satisfies(wide, narrow)]).toEqual([true, false]);
    expect(satisfies(restricted(wide, [extent(gib(5), gib(5) + framesOf(26))]), narrow)).toBe(true);
    expect(satisfies(restricted(wide, [extent(gib(5) + 1, gib(5) + framesOf(26) + 1)]), narrow)).toBe(false);
  });

  it('DR8 no frames are no pool for anyone: what cannot be reached from an aligned start is gone', () => {
    const huge = form({ align: 2 * M });
    expect(restricted(huge, [extent(1, 512)]).ranges).toEqual([]);
    expect(restricted(huge, [extent(1, 513)]).ranges).toEqual([extent(512, 513)]);
  });

  it('DR20 shared pages serve shared rules only and private ones private; coherent serves either', () => {
    const plain = form({});
    const shared = form({ encryptedShared: true });
    const coherent = form({ coherent: true });
    expect([satisfies(shared, plain), satisfies(plain, shared)]).toEqual([false, false]);
    expect([satisfies(coherent, plain), satisfies(plain, coherent)]).toEqual([true, false]);
  });

  it('DR21 required implies preferred of the same nodes, fewer nodes imply more, and not the reverse', () => {
    const at = (nodes: number[], strength: 'preferred' | 'required'): DmaForm => form({ node: { nodes, strength } });
    const chain = [at([1], 'required'), at([1], 'preferred'), at([1, 2], 'preferred'), form({})];
    const table = chain.map((a) => chain.map((b) => satisfies(a, b)));
    expect(table).toEqual([
      [true, true, true, true],
      [false, true, true, true],
      [false, false, true, true],
      [false, false, false, true],
    ]);
    expect(satisfies(at([1], 'preferred'), at([2], 'preferred'))).toBe(false);
  });

  it('DR12 least strict first: high memory before low, so that scarce memory is kept', () => {
    const rules: DmaRule[] = [{ addrMax: { bits: 24 } }, {}, { addrMax: { bits: 32 } }, { windowBits: 26 }];
    const order = rules.map(form).sort(leastStrictFirst);
    expect(order.map((f) => f.key)).toEqual([rules[1], rules[3], rules[2], rules[0]].map((r) => key(r as DmaRule)));
  });
});
