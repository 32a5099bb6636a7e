// The example of Salvador and Hildenbrand 2018, on a machine: a DIMM of 10 GiB comes to node 1 at 4 GiB, hosts its own
// struct pages at its head, is used, and goes again.
//
//   stage      what happens                               trace
//   booted     4 GiB on nodes 0 and 1                     -
//   added      10 GiB, policy self-range                  <head> (refcount: 80)
//   online     80 blocks, Movable                         -
//   offline    the same, back, last to first              -
//   removed    80 sections, first to last                 vmemmap_free: 80 lines, highest first
//
// The machine adds and removes; the trace hears of it by its events. Nothing here decides anything. The document says
// nothing of the boot memory; a DIMM lands at 4 GiB when that ends there.

import { assert } from '#base/assert';
import type { Result } from '#base/result';
import { toNodeId, toPfn } from '#base/units';
import { Machine, PAGE_SIZE, PAGES_PER_SECTION } from '#mm/index';
import { PAGES_PER_GIGABYTE, presentSections } from '#mm/memmap';
import { formatSelfRangeEvent, SelfRange } from '#mm/memmap-self-range';

export const RFC_STAGES = ['booted', 'added', 'online', 'offline', 'removed'] as const;

export type RfcStage = {
  readonly stage: (typeof RFC_STAGES)[number];
  /** As /proc/meminfo counts them. */
  readonly memTotalBytes: number;
  readonly memFreeBytes: number;
  /** Memory that exists, online or not. */
  readonly presentBytes: number;
};

export type RfcReport = {
  /** The document's lines, in order. */
  readonly trace: readonly string[];
  readonly stages: readonly RfcStage[];
  /** Frames of the DIMM that hold its struct pages. */
  readonly headPages: number;
  /** Frames of other memory that the add took. */
  readonly kernelPages: number;
};

const GIB = PAGES_PER_GIGABYTE;
const NODE = toNodeId(1);
const DIMM = { start: toPfn(4 * GIB), end: toPfn(14 * GIB) };

/** Runs the example. Deterministic; a machine that breaks an invariant on the way throws. Cost: some milliseconds. */
export function rfc2018(): RfcReport {
  const m = Machine.boot({
    ram: [
      { start: toPfn(0), end: toPfn(2 * GIB), node: toNodeId(0) },
      { start: toPfn(2 * GIB), end: toPfn(4 * GIB), node: NODE },
    ],
    hotplug: { memmapOnMemory: 'Y', autoOnline: 'offline' },
  });
  const trace: string[] = [];
  let range: SelfRange | undefined;
  m.onEvent = (event) => {
    if (event.type === 'add') {
      const { start: startPfn, end } = event;
      range = new SelfRange({ startPfn, pages: end - startPfn }, (e) => trace.push(formatSelfRangeEvent(e)));
    } else if (event.type === 'remove') {
      for (let section = 0; section < (range?.sections ?? 0); section++) range?.removeSection(section);
    }
  };
  const stages: RfcStage[] = [];
  const note = (stage: RfcStage['stage']): void => {
    assert(m.check(1).length === 0, 'the machine is sound', { stage });
    stages.push({ stage, ...countersOf(m) });
  };

  note('booted');
  const added = must(m.addMemory(DIMM, NODE, { memmap: 'self-range' }));
  note('added');
  for (const block of added.blocks) must(m.online(block, 'movable'));
  note('online');
  // Last to first: the first blocks host the struct pages of all (HB3).
  for (const block of [...added.blocks].reverse()) must(m.offline(block));
  note('offline');
  must(m.removeMemory(DIMM));
  note('removed');
  assert(range?.state === 'gone', 'the range is gone', { state: range?.state });
  return { trace, stages, headPages: range.headPages, kernelPages: added.kernelPages };
}

function countersOf(m: Machine): Omit<RfcStage, 'stage'> {
  let total = 0;
  let free = 0;
  for (const p of m.zones) {
    p.alloc.drain(); // frames on per-CPU lists would be missing, as they are in Linux
    total += p.managed;
    free += p.alloc.nrFree();
  }
  return {
    memTotalBytes: total * PAGE_SIZE,
    memFreeBytes: free * PAGE_SIZE,
    presentBytes: presentSections(m).length * PAGES_PER_SECTION * PAGE_SIZE,
  };
}

/** Nothing of the example can be refused. */
function must<T>(r: Result<T, unknown>): T {
  assert(r.ok, 'the example is not refused', { refusal: r.ok ? undefined : r.error });
  return r.value;
}
