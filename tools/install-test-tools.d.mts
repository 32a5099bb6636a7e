// Types of install-test-tools.mjs.

export type TestTool = { readonly file: string; readonly env: Readonly<Record<string, string>> };
export type Missing = { readonly file?: undefined; readonly why: string };
export type TestToolName = 'lsmem' | 'chmem' | 'numactl' | 'prometheus-node-exporter';

export function installTestTools(): Readonly<Record<TestToolName, TestTool | Missing>>;
