export type Engine = {
  allocPages(order: number, type: number): number;
  freePages(frame: number, order: number): void;
  metadataBytes?(): number;
};
export type Row = {
  readonly workload: string;
  readonly hash?: string;
  readonly ok?: boolean;
  readonly got?: number;
  readonly expected?: number;
  readonly huge?: number;
  readonly best?: number;
  readonly given?: number;
  readonly bytesPerPage?: number | null;
  readonly percent?: Readonly<Record<string, number>>;
};
export const WORKLOAD_NAMES: readonly string[];
export function runWorkload(
  name: string,
  create: (pages: number) => Engine,
  sizes: { pages: number; ops: number; boot?: number; rounds?: number },
): Row;
