// The allocation path: from a holder's request to frames, through the pools of a zonelist.
//
//   request = what the holder's class asks for, and the options of this call
//        └──> zonelist of its node ──> pass 0: pools above low ──> pass 1: pools above min ──> -1 and a refusal
//
// Which page of a pool it is, is the pool's business (page-alloc.ts). Nothing here changes a pool but through it.
//
// Follows Linux v6.12 mm/page_alloc.c: __alloc_pages(), get_page_from_freelist() (spec 2.5, 2.9).

import type { NodeId } from '#base/units';
import { REQUEST_TYPE_MASK, REQUEST_ZONE_MASK, REQUEST_ZONE_SHIFT } from './holder.ts';
import type { Machine } from './machine.ts';
import type { ZoneIndex } from './page-class.ts';
import type { Pool } from './pool.ts';
import { refusal } from './refusal.ts';

export type AllocOptions = {
  /** Node to start at; default: the holder's, else 0. */
  readonly node?: NodeId;
  /** Highest zone that will do; default: what the holder's class asks for. */
  readonly topZone?: ZoneIndex;
};

/** 2^order frames for a holder. @returns PageIndex; -1 when there are none, and the machine's `lastRefusal` says why. */
export function takeFor(m: Machine, holder: number, order: number, options: AllocOptions | undefined): number {
  const request = m.holders.request[holder] as number;
  const mt = request & REQUEST_TYPE_MASK;
  let top = ((request >>> REQUEST_ZONE_SHIFT) & REQUEST_ZONE_MASK) as ZoneIndex; // two bits
  let node = m.holders.node[holder] as number;
  if (options !== undefined) {
    node = options.node ?? node;
    top = options.topZone ?? top;
  }
  const list = node < 0 ? (m.zonelists[top] as Int32Array) : m.zonelist(node as NodeId, top);
  const index = takeFrames(m, list, order, mt, top);
  if (index < 0) {
    m.vmstat.pgalloc_fail++;
    const free = m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0);
    const message = `no free run of ${1 << order} frames above the watermarks; ${free} frames are free in all`;
    m.lastRefusal = refusal('no-memory', message);
  }
  return index;
}

/** Frames from the first pool of the list that has them above a watermark. @returns PageIndex, or -1. */
export function takeFrames(m: Machine, list: Int32Array, order: number, mt: number, top: number): number {
  const need = (1 << order) - 1;
  for (let pass = 0; pass < 8; pass += 4) {
    for (let k = 0; k < list.length; k++) {
      const pool = m.pools[list[k] as number] as Pool;
      if (pool.managed === 0) continue; // Linux: a zone without pages is in no zonelist
      if (pool.alloc.nrFree() - need <= (pool.marks[pass + top] as number)) continue;
      const i = pool.alloc.alloc(order, mt);
      if (i >= 0) return i + pool.base;
    }
  }
  return -1;
}
