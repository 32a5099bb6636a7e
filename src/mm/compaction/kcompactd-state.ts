// What kcompactd of each node remembers: what it was asked for, and how long it sleeps. What it does: kcompactd.ts.
//
//   row        by node
//   maxOrder   0..10   the largest order that somebody waits for; 0 = nothing to do
//   topZone    0..3    the lowest of the highest zones that such requests may use
//   woken      boolean somebody woke it
//   trigger    boolean somebody wrote to compaction_proactiveness: proactive work at once
//   timeoutMs  500, 32000 or Infinity   how long it sleeps when nobody wakes it
//   sleptAtMs  when it went to sleep; undefined: it has not been seen yet
//
// Follows Linux v6.12 include/linux/mmzone.h: struct pglist_data; mm/compaction.c: kcompactd() (spec 2.11).

import type { NodeId } from '#base/units';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import { ZONE_MOVABLE, type ZoneIndex } from '../page-class.ts';

/** HPAGE_FRAG_CHECK_INTERVAL_MSEC */
export const CHECK_INTERVAL_MS = 500;

export type NodeRow = {
  maxOrder: number;
  topZone: ZoneIndex;
  woken: boolean;
  trigger: boolean;
  timeoutMs: number;
  sleptAtMs: number | undefined;
};

class KcompactdState {
  readonly #rows = new Map<NodeId, NodeRow>();

  row(node: NodeId): NodeRow {
    let row = this.#rows.get(node);
    if (row === undefined) {
      row = {
        maxOrder: 0,
        topZone: ZONE_MOVABLE,
        woken: false,
        trigger: false,
        timeoutMs: CHECK_INTERVAL_MS,
        sleptAtMs: undefined,
      };
      this.#rows.set(node, row);
    }
    return row;
  }

  copy(): KcompactdState {
    const out = new KcompactdState();
    for (const [node, row] of this.#rows) out.#rows.set(node, { ...row });
    return out;
  }
}

const states = machineState(() => new KcompactdState());

/** To be read; written by kcompactd.ts only. */
export const kcompactdRow = (m: Machine, node: NodeId): NodeRow => states.of(m).row(node);

/** Proactive work on every node, as soon as its kcompactd looks. */
export function triggerProactive(m: Machine): void {
  for (const node of m.nodes) {
    const row = kcompactdRow(m, node);
    row.trigger = true;
    row.woken = true;
  }
}
