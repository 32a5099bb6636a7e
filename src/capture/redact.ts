// Redaction: what a capture leaves out, because people attach captures to bug reports.
//
// The rule is an allow-list: what is not known to be about memory goes, and leaves a `*` in its place, so that a reader
// sees that something was there. It is applied once, where files are gathered, to every source alike; applying it again
// changes nothing. docs/formats/capture.md says the same to users.
//
//   /proc/cmdline   a memory parameter keeps its value; any other `key=value` becomes `key=*`, any other word `*`;
//                   all words after `--` belong to init and become `*`. Boot lines do hold passwords, tokens and keys.
//   /proc/version   who built the kernel, and where: `(user@machine)` becomes `(*@*)`.
//   /proc/cpuinfo   the first processor only, and of it the lines about its model and features.
//   /proc/modules   the load address becomes zeros, as for a reader who is not root (it would defeat KASLR).
//   the host name   becomes `*` wherever it stands as a word of its own, cgroup paths included.
//
// Kept on purpose: cgroup paths (they are the names of holders), the memory map of /proc/iomem with its device names.

/** Values that stay, by exact name with `-` written `_` (the kernel takes both). */
const KEPT_PARAMETERS: ReadonlySet<string> = new Set(
  (
    'acpi_no_memhotplug cgroup.memory cgroup_disable cma cma_pernuma crashkernel ' +
    'debug_guardpage_minorder debug_pagealloc default_hugepagesz efi_fake_mem gbpages highmem ' +
    'hugepage_alloc_threads hugepages hugepagesz hugetlb_cma hugetlb_cma_only ' +
    'hugetlb_free_vmemmap hv_balloon.hot_add init_on_alloc init_on_free kernelcore ' +
    'kfence.sample_interval log_buf_len mem mem_encrypt memblock memhp_default_state memmap memory_corruption_check memtest ' +
    'mminit_loglevel movable_node movablecore nogbpages nohugeiomap nohugevmalloc nokaslr nopat ' +
    'nr_cpus numa numa_balancing numa_zonelist_order page_owner page_poison page_table_check percpu_alloc ' +
    'possible_cpus reserve_mem slab_debug slab_max_order slab_merge slab_min_objects slab_min_order ' +
    'slab_nomerge slub_debug slub_max_order slub_merge slub_min_objects slub_min_order slub_nomerge ' +
    'stack_depot_disable swapaccount swiotlb transparent_hugepage transparent_hugepage_shmem ' +
    'transparent_hugepage_tmpfs thp_anon thp_shmem accept_memory vm_debug vmalloc'
  ).split(' '),
);

/** Values that stay, by the start of the name: parameters of a built-in module that is all about memory. */
const KEPT_PREFIXES = [
  'damon_',
  'hugetlb.',
  'memory_hotplug.',
  'page_alloc.',
  'page_reporting.',
  'virtio_balloon.',
  'virtio_mem.',
  'zswap.',
];

const KEPT_CPUINFO =
  /^(?:processor|vendor_id|cpu family|model|model name|stepping|flags|address sizes|CPU implementer|CPU part)\s*:/;

export type Secrets = {
  /** The machine's own name, taken out wherever it stands as a word; empty or undefined when unknown. */
  readonly hostName?: string | undefined;
};

/** The text of one kernel file as a capture may keep it. Cost O(text). */
export function redact(path: string, text: string, secrets: Secrets): string {
  if (path === '/proc/cmdline') return redactWord(redactCommandLine(text), secrets);
  if (path === '/proc/version') return redactWord(text.replace(/\([^()\s@]+@[^()\s]+\)/, '(*@*)'), secrets);
  if (path === '/proc/cpuinfo') return firstProcessor(text);
  if (path === '/proc/modules') return text.replace(/\b0x[0-9a-f]+\b/g, (address) => '0x'.padEnd(address.length, '0'));
  return text;
}

/** A cgroup path as a capture may keep it: one line, whatever its owner called it. */
export const redactCgroup = (path: string, secrets: Secrets): string =>
  redactWord(path.replace(/[\x00-\x1f\x7f-\x9f]/g, '?'), secrets);

/** True for text without control characters. */
export const isPlainLine = (text: string): boolean => !/[\x00-\x1f\x7f-\x9f]/.test(text);

/** Words are separated by blanks; a double quote protects blanks until the next one (kernel: next_arg()). */
function redactCommandLine(text: string): string {
  let init = false;
  const words = text.match(/(?:"[^"]*"?|[^\s"])+/g) ?? [];
  const kept = words.map((word) => {
    if (init) return '*';
    if (word === '--') {
      init = true;
      return word;
    }
    const equals = word.indexOf('=');
    const key = equals < 0 ? word : word.slice(0, equals);
    if (keeps(key)) return word;
    // A key is a name somebody chose in public; anything that does not look like one goes as a whole.
    return equals > 0 && /^[A-Za-z][\w.-]{0,63}$/.test(key) ? `${key}=*` : '*';
  });
  return kept.join(' ') + (text.endsWith('\n') ? '\n' : '');
}

function keeps(key: string): boolean {
  const name = key.replaceAll('-', '_');
  return KEPT_PARAMETERS.has(name) || KEPT_PREFIXES.some((prefix) => name.startsWith(prefix));
}

function firstProcessor(text: string): string {
  const end = text.search(/\n\s*\n/);
  const lines = (end < 0 ? text : text.slice(0, end)).split('\n').filter((line) => KEPT_CPUINFO.test(line));
  return lines.length === 0 ? '' : lines.join('\n') + '\n';
}

/** A name of one letter would take half the text with it and says nothing: left alone. */
function redactWord(text: string, secrets: Secrets): string {
  const name = secrets.hostName?.trim() ?? '';
  if (name.length < 2 || name === '(none)' || name === 'localhost') return text;
  const literal = name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  return text.replace(new RegExp(`(?<![A-Za-z0-9])${literal}(?![A-Za-z0-9])`, 'g'), '*');
}
