// Worlds for tests of the executor: a small guest with a DIMM on each node, plans for it, and a journal that can be cut.
//
//   node 0  0-128 MiB boot, DMA and DMA32: block 0               node 1  4.25-4.5 GiB boot, Normal: blocks 34, 35
//   DIMM "d1": blocks 40-41 on node 1 at 0x140000000             virtio-mem "vm0" on node 1 at 8 GiB, up to 1 GiB
//
//   blocks of 128 MiB; block 40 = 0x140000000 / 0x8000000

import { err, ok, type Result } from '#base/result';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import type { HostFailure } from '#control/host';
import type { JournalSink } from '#control/journal';
import type { Faults } from '#hosts/twin/faults';
import { type TwinHost, type TwinHostOptions, twinHost } from '#hosts/twin/twin-host';
import { PAGE_SIZE } from '#mm/geometry';
import { Machine } from '#mm/machine';
import type { MachineSpec } from '#mm/machine-spec';
import type { PageClass } from '#mm/page-class';
import { hashLines, type Observation, observe, stateLines } from '#plan/observation';
import type { Action, Condition, Plan, Step, Unit } from '#plan/plan';

export const MIB = 2 ** 20;
export const GIB = 2 ** 30;
const BLOCK = 128 * MIB;
/** Boot memory. */
export const BOOT = 384 * MIB;
const pfn = (bytes: number) => toPfn(bytes / PAGE_SIZE);

/** First block of the DIMM. */
export const D1 = 40;
export const DIMM = { id: 'd1', memdev: 'mem-d1', addr: D1 * BLOCK, bytes: 2 * BLOCK, node: 1 };
export const VM0 = { id: 'vm0', memdev: 'mem-vm0', addr: 8 * GIB, maxBytes: GIB, node: 1 };

export type WorldOptions = TwinHostOptions & {
  readonly spec?: Partial<MachineSpec>;
  /** How the DIMM's blocks are; default: both online in Movable. 'absent': there is no DIMM. */
  readonly blocks?: readonly ('Movable' | 'Normal' | 'offline')[] | 'absent';
};

/** A guest that is up. */
export function twinWorld(options: WorldOptions = {}): TwinHost {
  const { spec, blocks = ['Movable', 'Movable'], ...rest } = options;
  const machine = Machine.boot({
    ram: [
      { start: toPfn(0), end: pfn(128 * MIB), node: toNodeId(0) },
      { start: pfn(4.25 * GIB), end: pfn(4.5 * GIB), node: toNodeId(1) },
    ],
    blockSize: BLOCK,
    compat: 'linux',
    kernel: '6.1',
    code: 'shared',
    ...spec,
  });
  const host = twinHost(machine, { dimms: blocks === 'absent' ? [] : [DIMM], ...rest });
  if (blocks !== 'absent') {
    blocks.forEach((zone, k) => {
      if (zone === 'offline') return;
      const done = machine.online(toBlockId(D1 + k), zone === 'Movable' ? 'movable' : 'kernel');
      if (!done.ok) throw new Error(done.error.message);
    });
  }
  return host;
}

/** Another host over a copy of the machine; for worlds that take long to make. Virtual devices are not copied. */
export const twinOf = (host: TwinHost): TwinHost =>
  twinHost(host.machine.fork(), { dimms: [...host.hypervisor.dimms.values()] });

/** Puts `pages` single pages of a class into a block: whatever the allocator likes better is taken away meanwhile. */
export function fill(host: TwinHost, block: number, name: PageClass, pages: number): number[] {
  const m = host.machine;
  const node = toNodeId(1);
  const holder = m.addHolder({ class: name, name: `${name} of block ${block}`, node });
  const start = block * m.blockPages;
  const isIn = (p: number): boolean => p >= start && p < start + m.blockPages;
  const take = (order: number): number => {
    const got = m.alloc(holder, toOrder(order));
    if (got < 0) throw new Error('no page is left');
    return got;
  };
  const hog: number[] = [];
  for (let got = take(9); ; got = take(9)) {
    if (isIn(got)) {
      m.free(toPfn(got));
      break;
    }
    hog.push(got);
  }
  const frames: number[] = [];
  while (frames.length < pages) {
    const got = take(0);
    (isIn(got) ? frames : hog).push(got);
  }
  for (const p of hog) m.free(toPfn(p));
  return frames;
}

export const seen = (host: TwinHost): Observation => {
  const o = observe(host.tree());
  if (!o.ok) throw new Error(o.error);
  return o.value;
};

/** Blocks as "40 online Movable"; devices behind them. */
export const stateOf = (host: TwinHost): string[] => stateLines(seen(host));

// ------------------------------------------------------------------------------------------------------------- plans

type Draft = Omit<Step, 'n' | 'title' | 'predicts' | 'deadlineMs'> & { readonly deadlineMs?: number };

export function planOf(
  o: Observation,
  units: readonly { readonly name: string; readonly bytes: number; readonly steps: readonly Draft[] }[],
): Plan {
  let n = 0;
  const lines = stateLines(o);
  return {
    dimmer: 'plan',
    version: 1,
    goal: { verb: 'remove', target: 'test' },
    host: { kind: 'twin', name: 'twin', kernel: '6.1' },
    assumes: { hash: hashLines(lines), lines },
    feasible: true,
    summary: 'a plan of a test',
    warnings: [],
    units: units.map(
      (u): Unit => ({
        name: u.name,
        reaches: `${u.name} is done`,
        bytes: u.bytes,
        steps: u.steps.map((s) => ({
          deadlineMs: 10_000,
          ...s,
          n: ++n,
          title: `${s.action.do} ${'block' in s.action ? s.action.block : ''}`.trim(),
          predicts: { ms: { value: 1, provenance: 'assumed' } },
        })),
      }),
    ),
    rejected: [],
  };
}

export const blockIs = (block: number, state: 'online' | 'offline', zone?: string): Condition => ({
  is: 'block',
  block,
  state,
  ...(zone === undefined ? {} : { zone }),
});

export const offlineDraft = (block: number, zone: string): Draft => ({
  action: { do: 'offline-block', block },
  expect: [blockIs(block, 'online', zone)],
  effect: [blockIs(block, 'offline')],
  undo: [{ do: 'online-block', block, zone: zone === 'Movable' ? 'movable' : 'kernel' }],
});

export const onlineDraft = (block: number, zone: 'movable' | 'kernel'): Draft => ({
  action: { do: 'online-block', block, zone },
  expect: [blockIs(block, 'offline')],
  effect: [blockIs(block, 'online', zone === 'movable' ? 'Movable' : 'Normal')],
  undo: [{ do: 'offline-block', block }],
});

const spanOf = (present: boolean): Condition => ({ is: 'blocks', first: D1, last: D1 + 1, present });

export const removeDimmDraft: Draft = {
  action: { do: 'remove-dimm', id: DIMM.id, memdev: DIMM.memdev },
  expect: [{ is: 'dimm', id: DIMM.id, present: true }, blockIs(D1, 'offline'), blockIs(D1 + 1, 'offline')],
  effect: [{ is: 'dimm', id: DIMM.id, present: false }, spanOf(false)],
};

export const addDimmDraft: Draft = {
  action: { do: 'add-dimm', ...DIMM },
  expect: [{ is: 'dimm', id: DIMM.id, present: false }, spanOf(false)],
  effect: [{ is: 'dimm', id: DIMM.id, present: true }, spanOf(true)],
  undo: [{ do: 'remove-dimm', id: DIMM.id, memdev: DIMM.memdev }],
};

export const virtioMemDraft = (from: number, to: number): Draft => ({
  action: { do: 'resize-virtio-mem', id: VM0.id, bytes: to },
  expect: [{ is: 'virtio-mem', id: VM0.id, requested: from }],
  effect: [{ is: 'virtio-mem', id: VM0.id, requested: to, size: to }],
  undo: [{ do: 'resize-virtio-mem', id: VM0.id, bytes: from }],
});

export const balloonDraft = (from: number, to: number): Draft => ({
  action: { do: 'balloon', bytes: to },
  expect: [{ is: 'balloon', bytes: from }],
  effect: [{ is: 'balloon', bytes: to }],
  undo: [{ do: 'balloon', bytes: from }],
});

const zoneOf = (o: Observation, block: number): string => o.blocks.find((b) => b.id === block)?.zone ?? '';

/** The DIMM's blocks offline, the higher one first, and the DIMM away: one unit. */
export function removalPlan(host: TwinHost): Plan {
  const o = seen(host);
  const online = [D1 + 1, D1].filter((b) => zoneOf(o, b) !== '');
  const steps = [...online.map((b) => offlineDraft(b, zoneOf(o, b))), removeDimmDraft];
  return planOf(o, [{ name: 'dimm:d1', bytes: DIMM.bytes, steps }]);
}

/** The DIMM plugged and online in Movable: one unit. */
export function addPlan(host: TwinHost): Plan {
  const steps = [addDimmDraft, onlineDraft(D1, 'movable'), onlineDraft(D1 + 1, 'movable')];
  return planOf(seen(host), [{ name: 'dimm:d1', bytes: DIMM.bytes, steps }]);
}

// ----------------------------------------------------------------------------------------------------------- journal

/** What a crash does at one line: the line is on the disk, or torn after so many characters. */
export type Cut = { readonly line: number; readonly keep: 'whole' | number };

/** A journal in memory. With a cut it never comes back from that line, as to a process that is killed. */
export class MemoryJournal implements JournalSink {
  text = '';
  lines = 0;
  readonly #cut: Cut | undefined;
  /** Fails from this line on, as a full disk; the line is torn. */
  readonly #fullAt: number;
  #died: () => void = () => {};
  /** Resolves when the cut has come. */
  readonly death: Promise<'dead'>;

  constructor(options: { readonly text?: string; readonly cut?: Cut; readonly fullAt?: number } = {}) {
    this.text = options.text ?? '';
    this.#cut = options.cut;
    this.#fullAt = options.fullAt ?? Number.POSITIVE_INFINITY;
    this.death = new Promise((resolve) => {
      this.#died = () => resolve('dead');
    });
  }

  append(text: string): Promise<Result<undefined, HostFailure>> {
    const n = this.lines++;
    if (n >= this.#fullAt) {
      this.text += text.slice(0, 10);
      return Promise.resolve(err({ kind: 'refused', sentence: 'no space left on device' }));
    }
    if (n === this.#cut?.line) {
      this.text += this.#cut.keep === 'whole' ? text : text.slice(0, this.#cut.keep);
      this.#died();
      return new Promise(() => {});
    }
    this.text += text;
    return Promise.resolve(ok(undefined));
  }
}

/** Faults at certain acts, by number from 0 on. */
export const atAct =
  (faults: Readonly<Record<number, ReturnType<Faults>>>): Faults =>
  (call) =>
    call.verb === 'act' ? faults[call.act] : undefined;

export type { Action };
