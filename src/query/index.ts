// dimmer/query: one typed read model behind the command line, the web and tests. No formatting, no effects.

export { type CheckReport, type CheckRow, check, type Goal, type Tally } from './check.ts';
export {
  type DoctorExtra,
  type DoctorReport,
  doctor,
  type Finding,
  type FindingCode,
  type HypervisorFacts,
  type Need,
  SEVERITIES,
  type Seen,
  type Severity,
} from './doctor.ts';
export type { NodeRoom, ZoneRoom } from './doctor-room.ts';
export { type ExplainBlock, type ExplainReport, explainBlocks } from './explain.ts';
export { type AddedRange, addedRanges } from './hot-added.ts';
export { judgeBlocks } from './judge-blocks.ts';
export { listBlocks, listNodes, listZones, type PoolRow, type SplitBy } from './ls.ts';
export { type DimmRow, listDimms } from './ls-dimms.ts';
export { listPools, type PoolEntry, poolsOfTwin } from './ls-pools.ts';
export { FILLS, type Fill, type MapBlock, type MemoryMap, memoryMap } from './map.ts';
export { isPrometheusText, prometheusText } from './prometheus.ts';
export { CLASS_WORDS, shortReason } from './reason.ts';
export { machineInfo, type SourceInfo, sourceInfo } from './source-info.ts';
export { blocksOfTarget, parseTarget, sayIds, TARGET_FORMS, type Target, type TargetRefusal } from './target.ts';
export { type VerifyReport, verify } from './verify.ts';
