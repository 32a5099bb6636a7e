// dimmer, the engine: a machine's physical memory as a library. No dependencies; Node and browsers alike.

export { InvariantError } from '#base/assert';
export type { Result } from '#base/result';
export {
  type BlockId,
  type Bytes,
  type HolderId,
  type Millis,
  type NodeId,
  type Order,
  type PageIndex,
  type Pfn,
  toBlockId,
  toHolderId,
  toNodeId,
  toOrder,
  toPfn,
} from '#base/units';
export type { AllocOptions } from './alloc-path.ts';
export type { Violation } from './check.ts';
export type { MachineEvent } from './events.ts';
export type { FreeArea, Placement } from './free-area.ts';
export * from './geometry.ts';
export { type BlockInfo, type FrameInfo, Machine, type Snapshot } from './machine.ts';
export { type MachineSpec, type RamRange, type ReservedRange, simpleSpec } from './machine-spec.ts';
export type { BlockState } from './memory-block.ts';
export {
  type Notifier,
  type OfflineOptions,
  type OfflineReport,
  type OfflineStage,
  OfflineWork,
} from './memory-hotplug.ts';
export type { OnlineReport } from './memory-online.ts';
export {
  CLASS_TRAITS,
  type Mobility,
  PAGE_CLASSES,
  type PageClass,
  ZONE_NAMES,
  type ZoneIndex,
  type ZoneName,
} from './page-class.ts';
export type { Pool } from './pool.ts';
export { type Blocker, type BlockerCause, ERRNO, type ErrnoName, type Refusal, type RefusalReason } from './refusal.ts';
export type { WatermarkSettings, Watermarks } from './watermark.ts';
