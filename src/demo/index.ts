// Demos: famous examples of the field, run on a real machine of the engine. Each returns a typed report; the command
// line prints it.

export {
  DEFRAG_STRATEGIES,
  type DefragReport,
  type DefragRow,
  defrag,
  type FilesRow,
} from './defrag.ts';
export { GIGANTIC_DIMM_BYTES, type GiganticRow, gigantic } from './gigantic.ts';
export {
  type Help,
  INGO_HELPS,
  INGO_TLB_PPM,
  type IngoDimm,
  type IngoReport,
  type IngoSums,
  ingo,
  sumUp,
} from './ingo.ts';
export { type DemoResult, POOL_DEMOS, type PoolDemo } from './pools/index.ts';
export { RFC_STAGES, type RfcReport, type RfcStage, rfc2018 } from './rfc2018.ts';
