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
export type { AllocOptions, AllocRights } from './alloc-path.ts';
export {
  AREA_FAULT_POINTS,
  areaContracts,
  CONTRACTS,
  type Contract,
  type ContractArea,
  type ContractCounts,
  type ContractRefusal,
  type ContractReport,
  type ContractStat,
  contractAt,
  contractCounts,
  type SetContractOptions,
  setAreaContract,
} from './area-contract.ts';
export { type LongTermPin, PIN_FAULT_POINTS, pinLongTerm } from './area-contract-pin.ts';
export { bootAllocator, bootFull, type FullAllocator, type FullSpec } from './boot-allocator.ts';
export { type BootParams, bootParamsOf, parseCommandLine, type Remark } from './boot-params.ts';
export type { Violation } from './check.ts';
export { type CmaArea, type CmaOptions, cmaAlloc, cmaAreas, cmaCounters, cmaRelease } from './cma.ts';
export { CompactWork, compactZone } from './compaction/compact-zone.ts';
export { installCompaction } from './compaction/direct.ts';
export { compactMemory, compactNode, kcompactdTick } from './compaction/kcompactd.ts';
export { Defragmenter } from './defrag/defragmenter.ts';
export {
  type BlockTrial,
  DIMM_FAULT_POINTS,
  type DimmOptions,
  type DimmRefusal,
  type DimmRemoval,
  type DimmStage,
  DimmWork,
  type RemoveDimmOptions,
  removeDimm,
} from './dimm-offline.ts';
export { QemuBalloon, VirtioBalloon } from './drivers/balloon.ts';
export { type HotAddResponse, HvHotAdd } from './drivers/hv-balloon.ts';
export { VirtioMem, type VirtioMemActivity, type VirtioMemOptions } from './drivers/virtio-mem.ts';
export { QemuVirtioMem, type VirtioMemPort, type VirtioMemReply } from './drivers/virtio-mem-device.ts';
export { bootEmbedded, type EmbeddedAllocator, type EmbeddedSpec } from './embedded.ts';
export type { LogLine, MachineEvent, PoolVerb } from './events.ts';
export {
  explainBlock,
  explainRange,
  type RangeBlocker,
  type RangeExplanation,
  type RemedyWord,
} from './explain-range.ts';
export { chunkCounts, extfragForOrder, fragmentationIndex, unusableFreeIndex } from './extfrag.ts';
export type {
  AreaHandle,
  DriverCap,
  DriverNo,
  DriverOps,
  DriverSpec,
  FixedArea,
  RelinquishMode,
} from './fixed-areas/driver.ts';
export { type DriversEvictorOptions, driversEvictor } from './fixed-areas/evictor.ts';
export {
  type AreaRequest,
  type AreaVerdict,
  FixedAreas,
  fixedAreas,
  type Relinquished,
} from './fixed-areas/fixed-areas.ts';
export type { AreaClock, RelinquishOptions } from './fixed-areas/relinquish.ts';
export type { AllocRefusal, FrameAllocator, FrameAllocatorSpec } from './frame-allocator.ts';
export type { FreeArea, Placement } from './free-area.ts';
export * from './geometry.ts';
export type { AddedRange, HotplugSettings, OnlinePolicy } from './hotplug.ts';
export { KERNEL_CLASSES, type KernelClass } from './kernel-class.ts';
export { AUTO_ONLINE, type AutoOnline, KERNEL_NAMES, type KernelName, type KernelProfile } from './kernel-profile.ts';
export { type RemapOptions, remapEvictor } from './kremap/evictor.ts';
export {
  type CameHome,
  type Evacuated,
  type EvacuateOptions,
  type Kremap,
  type KremapStat,
  kremap,
} from './kremap/kremap.ts';
export { type MappedRun, mappedRuns } from './kremap/page-tables.ts';
export { KREMAP_FAULTS } from './kremap/protocol.ts';
export { type TlbCost, type TlbRun, tlbRun } from './kremap/tlb.ts';
export {
  LARGE_PAGE_POLICIES,
  type LargePageArea,
  type LargePagePolicy,
  type LargePageStat,
  type LargePages,
  largePages,
} from './large-page-state.ts';
export { type BlockInfo, type FrameInfo, Machine, type Snapshot } from './machine.ts';
export { type MachineSpec, type RamRange, type ReservedRange, simpleSpec } from './machine-spec.ts';
export { type MachineState, type MachineStateKind, machineState } from './machine-state.ts';
export { allocMapped, closeMapped, mappingInfo, shrinkMapped, tailsFirst, truncateMapped } from './mapping-pool.ts';
export { type MemmapPlan, type MemmapPolicy, planMemmap } from './memmap.ts';
export { memmapEvictor } from './memmap-evictor.ts';
export {
  MEMMAP_FAULT_POINTS,
  type MemmapCounters,
  MemmapMove,
  type MemmapMoveReport,
  type MoveTarget,
  memmapCounters,
  moveMemmap,
} from './memmap-move.ts';
export { MEMMAP_WISHES, type MemmapWish } from './memmap-place.ts';
export { formatSelfRangeEvent, SelfRange, type SelfRangeEvent } from './memmap-self-range.ts';
export { type MemmapStat, memmapStat, structPageOf } from './memmap-where.ts';
export type { AddOptions, AddReport, MemoryRange } from './memory-add.ts';
export type { BlockState } from './memory-block.ts';
export { deviceOnline, ejectDimm, plugDimm, storeOnline } from './memory-device.ts';
export type { GroupId, MemoryGroup } from './memory-group.ts';
export {
  type Notifier,
  type OfflineOptions,
  type OfflineReport,
  type OfflineStage,
  OfflineWork,
} from './memory-hotplug.ts';
export type { OnlineReport } from './memory-online.ts';
export type { RemoveReport } from './memory-remove.ts';
export { growUsable } from './memory-usable.ts';
export {
  abortMove,
  beginMove,
  finishMove,
  type MigrateMode,
  type MigrateOutcome,
  type Move,
  type MoveOutcome,
  migrateAllocation,
} from './migrate.ts';
export {
  EVACUATE_FAULT_POINTS,
  EVACUATION_KINDS,
  type EvacuateNodeOptions,
  type Evacuation,
  type EvacuationKind,
  type EvacuationKinds,
  evacuateNode,
} from './node-evacuate.ts';
export { genericOnlinePage, restoreOnlinePageCallback, setOnlinePageCallback } from './online-callback.ts';
export {
  CLASS_TRAITS,
  type Mobility,
  PAGE_CLASSES,
  type PageClass,
  ZONE_NAMES,
  type ZoneIndex,
  type ZoneName,
} from './page-class.ts';
export type { PageState, PageStateOf } from './page-state.ts';
export type { Pool } from './pool.ts';
export type { AllocSetSpec, SetMember, SetRefusal } from './pools/alloc-set.ts';
export {
  type ChunkCosts,
  chunkCosts,
  HISTOGRAM_LABELS,
  setChunkSettings,
} from './pools/chunk-cost.ts';
export { type DmaModule, type DmaModuleSpec, loadedModules, loadModule, unloadModule } from './pools/dma-module.ts';
export { type DmaPools, type DmaRef, dmaPools } from './pools/dma-pools.ts';
export type { DmaRule } from './pools/dma-rule.ts';
export { evacuateCheapest, evacuateChunk } from './pools/evacuate.ts';
export {
  allocByPolicy,
  type Mempolicy,
  mempolicyOf,
  pagesByPool,
  type Settled,
  setMempolicy,
  settleByPolicy,
} from './pools/mempolicy.ts';
export {
  type GroupMove,
  type GroupSpec,
  type GroupUsage,
  type LimitChange,
  type MemberUsage,
  PoolGroups,
  poolGroups,
} from './pools/pool-group.ts';
export type { BorrowSpec, GivenBack } from './pools/pool-lease.ts';
export {
  type FallbackEdge,
  type Lease,
  PERMS,
  type Perm,
  POOL_CLASSES,
  type PoolAttrs,
  type PoolClass,
  type Principal,
  ROOT,
} from './pools/pool-table.ts';
export {
  type As,
  type AttrChange,
  type Grants,
  type MoveOptions,
  type MoveWhat,
  type PoolSpec,
  type PoolStat,
  Pools,
  pools,
} from './pools/pools.ts';
export { type Replicas, replicas } from './pools/replica.ts';
export type { Revoked, RevokeSpec } from './pools/revoke.ts';
export { setPageState } from './pools/shed.ts';
export { directReclaim, dropPageCache } from './reclaim.ts';
export { ownersMove, type PageMobility, type ReclassifyReport, reclassify } from './reclassify.ts';
export { type Blocker, type BlockerCause, ERRNO, type ErrnoName, type Refusal, type RefusalReason } from './refusal.ts';
export type { Resource, ResourceSpec } from './resource.ts';
export { readTunable, type Tunable, writeTunable } from './vm-tunables.ts';
export type { WatermarkSettings, Watermarks } from './watermark.ts';
export type { OnlineType } from './zone-choice.ts';
