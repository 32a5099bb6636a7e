// Compaction's words: how hard, for whom, and how it ended.
//
//   result            rank   what it says
//   skipped            0     not worth a try: too little is free, or fragmentation is not what is wrong
//   deferred           1     it failed not long ago
//   complete           2     the whole zone was looked at, and the page is not there
//   partial-skipped    3     the scanners met, but they had not begun at the ends of the zone
//   contended          4     it gave up in the middle: nothing free to move to, though there was more to look at
//   success            5     there is such a page, or was before anything was done, or it was captured
//
// Of several zones the highest rank counts. Linux v6.12 include/linux/compaction.h: enum compact_result.

import type { MigrateType } from '../geometry.ts';
import type { MigrateMode } from '../migrate.ts';
import type { ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';

export const COMPACT_RESULTS = ['skipped', 'deferred', 'complete', 'partial-skipped', 'contended', 'success'] as const;
export type CompactResult = (typeof COMPACT_RESULTS)[number];

/** The one of the two that counts for a request: the higher rank. */
export const worthier = (a: CompactResult, b: CompactResult): CompactResult =>
  COMPACT_RESULTS.indexOf(a) >= COMPACT_RESULTS.indexOf(b) ? a : b;

/** No order is wanted: everything that moves goes to the end of the zone (compact_memory, proactive runs). */
export const ORDER_ALL = -1;
/** PAGE_ALLOC_COSTLY_ORDER: requests above may fail. */
export const COSTLY_ORDER = 3;
/** COMPACT_CLUSTER_MAX: pages that one round isolates. */
export const COMPACT_CLUSTER = 32;

/** Steps of a run that can fail in the world, as Machine.faultAt is asked for them. */
export const COMPACT_FAULT_POINTS = [
  /** A page is not to be had: somebody else isolated or locked it. */
  'compact.isolate',
  /** A free chunk is not to be had: somebody took it. */
  'compact.target',
  /** The page's users cannot be stopped. */
  'compact.migrate',
  /** The copy fails. */
  'compact.copy',
] as const;
export type CompactFaultPoint = (typeof COMPACT_FAULT_POINTS)[number];

export type CompactOptions = {
  /** 2^order frames in one piece are wanted; or ORDER_ALL. */
  readonly order: number;
  readonly mode: MigrateMode;
  /** Of the request. Default Movable. */
  readonly migratetype?: MigrateType;
  /** Highest zone of the request, which chooses the reserve. Default: the pool's. */
  readonly topZone?: ZoneIndex;
  /** For a request that waits (direct compaction): async looks at pageblocks of its type only. Default false: a daemon. */
  readonly direct?: boolean;
  /** From the ends of the zone, not from where the last run stopped. Default false. */
  readonly wholeZone?: boolean;
  /** Pageblocks that had nothing last time are looked at again. Default false. */
  readonly ignoreSkip?: boolean;
  /** Free frames of any pageblock are targets (last resort). Default false. */
  readonly anyTarget?: boolean;
  /** A page of the order is taken as it comes to be, for the caller, who has it in CompactReport.captured. Default false. */
  readonly capture?: boolean;
  /** In place of Linux's end, "is there such a page?": asked before each round. */
  readonly done?: (pool: Pool) => boolean;
  /** Per-CPU lists of the pool: drained at the start (default), or off until the run is over (Hansen 2004). */
  readonly perCpuLists?: 'drained' | 'off';
  /** Count frame entries that scanners without an index would read (CompactReport.visits). Costs what they would. */
  readonly countVisits?: boolean;
};

export type CompactReport = {
  readonly result: CompactResult;
  /** PageIndex of 2^order frames that the caller has now; -1 = none. */
  readonly captured: number;
  /** Pages whose contents were moved; that did not move when they were tried. */
  readonly moved: number;
  readonly failed: number;
  /** Frames that each scanner passed: what vmstat counts (compact_migrate_scanned, compact_free_scanned). */
  readonly migrateScanned: number;
  readonly freeScanned: number;
  /** With countVisits: entries read by both scanners, and by the free one, by the rule of pools/evacuate.ts. Else 0. */
  readonly visits: number;
  readonly freeVisits: number;
  readonly rounds: number;
};
