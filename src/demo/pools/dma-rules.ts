// Problem 1 of the mail: devices that can address 64 bits, but only if some of them are the same at any time.
//
//   modules  24 of them: old cards with 24 bits, cards with 32, cards whose upper 32 or 34 bits are one register, video
//            that wants 4 MiB in one piece, engines that do not cross 64 KiB; each with a few buffers, one module after another
//   before   drivers that can address everything took 90 % of what is free
//
// Linux's way (mm/pools/dma-direct.ts): a mask becomes a zone. What a mask cannot say the driver has to hope for, or it asks
// for less than it could use: 32 bits. The other way (mm/pools/dma-module.ts): the rule is said, and an existing pool that
// follows it is found, or one is created. Each buffer is held against its rule (violationOf), however it came.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { DMA_END, DMA32_END, PAGE_SIZE } from '#mm/geometry';
import { Machine } from '#mm/machine';
import { violationOf } from '#mm/pools/dma-buffer';
import { dmaDirectAlloc } from '#mm/pools/dma-direct';
import type { Extent } from '#mm/pools/dma-extent';
import { loadModule, unloadModule } from '#mm/pools/dma-module';
import { checkDma, dmaPools } from '#mm/pools/dma-pools';
import { type DmaForm, type DmaRule, formOfRule } from '#mm/pools/dma-rule';
import type { DemoResult, PoolDemo } from './demo.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
/** RAM: 128 MiB below 4 GiB, of which 16 MiB are what 24 bits reach; 384 MiB above. */
const LOW = (128 * MIB) / PAGE_SIZE;
const HIGH = (384 * MIB) / PAGE_SIZE;

type Kind = {
  readonly name: string;
  readonly rule: DmaRule;
  /** Bits of the mask that its driver asks for where it can say nothing else. */
  readonly mask: number;
  readonly buffers: readonly number[];
};

const KINDS: readonly Kind[] = [
  { name: 'sound card, 24 bits', rule: { addrMax: { bits: 24 } }, mask: 24, buffers: [128 * KIB, 128 * KIB] },
  { name: 'disk, 32 bits', rule: { addrMax: { bits: 32 } }, mask: 32, buffers: [MIB] },
  { name: 'network, 32 bits the same', rule: { sameHighBits: 32 }, mask: 64, buffers: [MIB, MIB] },
  { name: 'network, 34 bits the same', rule: { sameHighBits: 34 }, mask: 64, buffers: [MIB, MIB] },
  { name: 'accelerator, a window of 256 MiB', rule: { windowBits: 28 }, mask: 64, buffers: [2 * MIB, 2 * MIB] },
  { name: 'video, 4 MiB in one piece', rule: { contiguous: true }, mask: 64, buffers: [4 * MIB] },
];
const EACH = 4;

type Story = {
  /** By kind: modules that have all their buffers, and those of them whose buffers keep the rule. */
  readonly loaded: readonly number[];
  readonly right: readonly number[];
  readonly belowDma: number;
  readonly below4G: number;
  readonly pools: number;
  readonly moved: number;
};

export const dmaRules: PoolDemo = {
  name: 'dma-rules',
  problem:
    'There are many devices which can DMA to 64-bit addresses, but only if 32 bits (or 34, or 26, etc.) are the same at any ' +
    'given time.',
  run: ({ seed = 2007 }) => report(seed, story(seed, 'mask'), story(seed, 'rules')),
};

const formOf = (rule: DmaRule): DmaForm => {
  const form = formOfRule(rule);
  assert(form.ok, 'the rules of the demonstration are rules', { rule: JSON.stringify(rule) });
  return form.value;
};

function boot(seed: number): Machine {
  const m = Machine.boot({
    ram: [
      { start: toPfn(0), end: toPfn(LOW), node: toNodeId(0) },
      // The upper part lies across a border of 1 GiB, so that two buffers need not agree in 34 bits.
      {
        start: toPfn(2 ** 20 + 3 * 2 ** 18 - HIGH / 2),
        end: toPfn(2 ** 20 + 3 * 2 ** 18 + HIGH / 2),
        node: toNodeId(0),
      },
    ],
    code: 'shared',
  });
  const rng = new Prng(seed);
  const cache = m.addHolder({ class: 'anonymous', name: 'programs' });
  const drivers = m.addHolder({ class: 'driver', name: 'drivers of 64 bits' });
  const free = (): number => m.zones.reduce((n, z) => n + z.alloc.nrFree(), 0);
  const all = free();
  const mine: Pfn[] = [];
  while (free() > all / 10) {
    const [holder, order] = rng.chance(0.1) ? [drivers, 3] : [cache, 0];
    const pfn = m.alloc(holder, toOrder(order));
    if (pfn === -1) break;
    if (holder === cache) mine.push(pfn);
  }
  // Programs come and go: what is free now lies anywhere.
  rng.shuffle(mine);
  for (const pfn of mine.slice(0, mine.length / 10)) m.free(pfn);
  for (const p of m.pools) p.alloc.drain();
  return m;
}

type Got = readonly (readonly Extent[])[] | undefined;

function byMask(m: Machine, name: string, kind: Kind): Got {
  const holder: HolderId = m.addHolder({ class: 'driver', name });
  const out: Extent[][] = [];
  for (const bytes of kind.buffers) {
    const got = dmaDirectAlloc(m, holder, { bytes, bits: kind.mask });
    if (!got.ok) {
      for (const [buffer] of out) if (buffer !== undefined) m.free(buffer.start);
      return undefined;
    }
    out.push([{ start: got.value, end: toPfn(got.value + bytes / PAGE_SIZE) }]);
  }
  return out;
}

function byRule(m: Machine, name: string, kind: Kind): Got {
  const got = loadModule(m, { name, uses: [{ rule: kind.rule, buffers: kind.buffers }] });
  return got.ok ? got.value.uses.flatMap((u) => u.buffers.map((b) => b.segments)) : undefined;
}

function story(seed: number, way: 'mask' | 'rules'): Story {
  const m = boot(seed);
  const before = m.vmstat.pgmigrate_success;
  const loaded = KINDS.map(() => 0);
  const right = KINDS.map(() => 0);
  let belowDma = 0;
  let below4G = 0;
  for (let k = 0; k < EACH; k++) {
    KINDS.forEach((kind, i) => {
      const buffers = (way === 'mask' ? byMask : byRule)(m, `${kind.name} ${k}`, kind);
      if (buffers === undefined) return;
      loaded[i] = (loaded[i] as number) + 1;
      if (violationOf(formOf(kind.rule), buffers) === undefined) right[i] = (right[i] as number) + 1;
      for (const s of buffers.flat()) {
        if (s.start < DMA_END) belowDma += s.end - s.start;
        if (s.start < DMA32_END) below4G += s.end - s.start;
      }
    });
  }
  const made = dmaPools(m).list().length;
  const moved = m.vmstat.pgmigrate_success - before;
  if (way === 'rules') for (let k = 0; k < EACH; k++) for (const kind of KINDS) unloadModule(m, `${kind.name} ${k}`);
  const wrong = [...m.check().map((v) => v.detail), ...checkDma(m)];
  assert(wrong.length === 0, 'the machine is sound afterwards', { wrong: wrong[0] });
  return { loaded, right, belowDma, below4G, pools: made, moved };
}

const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);

function report(seed: number, mask: Story, rules: Story): DemoResult {
  const all = EACH * KINDS.length;
  const mib = (pages: number): string => `${((pages * PAGE_SIZE) / MIB).toFixed(1)} MiB`;
  return {
    title: `${all} drivers with six rules about addresses, on a machine of which 90 % is taken`,
    lines: [
      'A device that can send 64 address bits may keep half of them in one register: all its buffers must agree in them.',
      'Linux asks a driver for a mask: how many bits? That chooses a zone. More cannot be said, and nothing is moved out of the way:',
      `${sum(mask.loaded)} of ${all} drivers get their buffers, and those of ${sum(mask.loaded) - sum(mask.right)} break the device's rule, unseen.`,
      `A driver that states its rule gets a pool that follows it: ${sum(rules.loaded)} of ${all} have their buffers, ${sum(rules.right)} by the rule.`,
      `${rules.pools} pools serve them all, since drivers with one rule, or a looser one, share. ${rules.moved} pages of programs move out of the way.`,
      "When the last user of a pool is unloaded, its frames are the zones' again.",
    ],
    table: {
      columns: ['drivers whose buffers keep the rule', 'a mask', 'rules'],
      rows: [
        ...KINDS.map((kind, i) => [kind.name, `${mask.right[i]} of ${EACH}`, `${rules.right[i]} of ${EACH}`] as const),
        ['refused', all - sum(mask.loaded), all - sum(rules.loaded)],
        [
          'loaded with buffers that break the rule',
          sum(mask.loaded) - sum(mask.right),
          sum(rules.loaded) - sum(rules.right),
        ],
        ['memory below 16 MiB in buffers', mib(mask.belowDma), mib(rules.belowDma)],
        ['memory below 4 GiB in buffers', mib(mask.below4G), mib(rules.below4G)],
        ['pools', 0, rules.pools],
        ['price: pages that moved', mask.moved, rules.moved],
      ],
    },
    facts: {
      seed,
      all,
      'mask.loaded': sum(mask.loaded),
      'mask.right': sum(mask.right),
      'mask.belowDma': mask.belowDma,
      'mask.below4G': mask.below4G,
      'rules.loaded': sum(rules.loaded),
      'rules.right': sum(rules.right),
      'rules.belowDma': rules.belowDma,
      'rules.below4G': rules.below4G,
      'rules.pools': rules.pools,
      'rules.moved': rules.moved,
    },
  };
}
