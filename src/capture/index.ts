// The capture layer's public face (package export "dimmer/capture").

export {
  BUNDLE_VERSION,
  type BundleRefusal,
  decodeBundle,
  encodeBundle,
  type Gunzip,
  type Gzip,
  looksLikeBundle,
} from './bundle.ts';
export type { Capture, CaptureOrigin, CaptureProblem } from './capture.ts';
export {
  type AsyncMachineFiles,
  filesOfTree,
  gather,
  gatherAsync,
  type MachineFiles,
  type ReadFailure,
  type Soon,
  type TextRead,
  type TimedRead,
} from './gather.ts';
export {
  decodeRuns,
  encodeRuns,
  forEachRun,
  overlay,
  type PageRuns,
  RunBuilder,
  runAt,
  runsOf,
  wordAt,
} from './page-runs.ts';
export { type ReadTime, type RecordedFile, RecordedTree } from './recorded-tree.ts';
