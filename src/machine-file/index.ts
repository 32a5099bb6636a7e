// Machine files: a computer written down as YAML, and as its firmware describes it (package export "dimmer/machine-file").
//
// docs/formats/machine.md describes the file. Text in, a MachineSpec out; nothing here reads a disk.

export { editPools, type Plain, type PoolEdit, plainOf } from './edit-pools.ts';
export { type DimmPlan, type MachineFile, type MachineFileProblem, parseMachineFile } from './machine-file.ts';
export { edgeEdit, pagesOfWord, removal, sizeEdits, sizeWord } from './pool-edits.ts';
export {
  makePools,
  type Place,
  POOL_FIELDS,
  type PoolField,
  type PoolPlan,
  type PoolPlanProblem,
  parsePools,
  specOn,
} from './pool-plan.ts';
export { type SimBlocks, type SimNode, type SimReport, type SimZone, simReport } from './sim-report.ts';
export { type ByteRange, type SratSpec, sratToSpec } from './srat-ram.ts';
