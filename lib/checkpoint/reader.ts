// Reading a checkpoint: one safetensors file, or a directory with one or with an index over several. Only headers are
// read when it is opened; a tensor is read when it is asked for, by position, so that a file may be far larger than
// memory.

import { open, readFile, stat, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

import { SeqmixError } from '../errors.js'
import { isFloat } from '../dtype.js'
import type { DType, FloatDType, TensorData } from '../index.js'
import { toFloat32 } from './convert.js'
import {
  damaged,
  findDuplicateKey,
  headerLength,
  parseHeader,
  PREFIX_BYTES,
  STORED_DTYPES,
  type Header,
  type TensorInfo,
} from './format.js'

/** A tensor in host memory, as a checkpoint holds it. float16 and bfloat16 are their bits in a Uint16Array. */
export interface StoredTensor {
  dtype: DType
  shape: readonly number[]
  data: TensorData
}

// A single read of 2 GiB or more fails on some systems.
const CHUNK_BYTES = 2 ** 30

class SafetensorsFile {
  private constructor(
    readonly path: string,
    readonly header: Header,
    private readonly handle: FileHandle,
  ) {}

  static async open(path: string): Promise<SafetensorsFile> {
    let handle: FileHandle
    try {
      handle = await open(path, 'r')
    } catch (cause) {
      throw damaged(path, `cannot be opened: ${(cause as Error).message}`, cause)
    }
    try {
      const { size } = await handle.stat()
      const prefix = new Uint8Array(Math.min(PREFIX_BYTES, size))
      await readFully(handle, prefix, 0, path, 'the header length')
      const bytes = new Uint8Array(headerLength(prefix, size, path))
      await readFully(handle, bytes, PREFIX_BYTES, path, 'the header')
      return new SafetensorsFile(path, parseHeader(bytes, size, path), handle)
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  async read(info: TensorInfo): Promise<StoredTensor> {
    const dtype = checkReadable(info)
    const data = allocate(info, dtype)
    await readFully(this.handle, new Uint8Array(data.buffer), info.offset, this.path, info.name)
    return { dtype, shape: info.shape, data }
  }

  close(): Promise<void> {
    return this.handle.close()
  }
}

async function readFully(
  handle: FileHandle,
  into: Uint8Array,
  position: number,
  path: string,
  what: string,
): Promise<void> {
  let done = 0
  while (done < into.length) {
    const length = Math.min(CHUNK_BYTES, into.length - done)
    let bytesRead: number
    try {
      ;({ bytesRead } = await handle.read(into, done, length, position + done))
    } catch (cause) {
      throw damaged(path, `${what}: reading at byte ${position + done} failed: ${(cause as Error).message}`, cause)
    }
    if (bytesRead === 0) {
      throw damaged(
        path,
        `${what}: the file ends at byte ${position + done}, expected bytes ${position} to ${position + into.length}`,
      )
    }
    done += bytesRead
  }
}

/** The dtype of a tensor that can be held; ERR_UNSUPPORTED for another. */
export function checkReadable(info: TensorInfo): DType {
  if (!(Object.values(STORED_DTYPES) as string[]).includes(info.dtype)) {
    const readable = Object.keys(STORED_DTYPES).join(', ')
    throw new SeqmixError(
      'ERR_UNSUPPORTED',
      `${info.file}: ${info.name}: dtype ${info.dtype} is not supported; supported are ${readable}`,
    )
  }
  return info.dtype as DType
}

/** An array of a tensor's own for its bytes. */
export function allocate(info: TensorInfo, dtype: DType): TensorData {
  try {
    switch (dtype) {
      case 'float32':
        return new Float32Array(info.bytes / 4)
      case 'float16':
      case 'bfloat16':
        return new Uint16Array(info.bytes / 2)
      case 'int32':
        return new Int32Array(info.bytes / 4)
      case 'int64':
        return new BigInt64Array(info.bytes / 8)
      case 'bool':
        return new Uint8Array(info.bytes)
      case 'int8':
        return new Int8Array(info.bytes)
    }
  } catch (cause) {
    throw new SeqmixError('ERR_OUT_OF_MEMORY', `${info.file}: ${info.name}: no host memory for ${info.bytes} bytes`, {
      cause,
    })
  }
}

/** An open checkpoint. Made by {@link openCheckpoint}. */
export class Checkpoint {
  /** @internal */
  constructor(
    /** the directory or file it was opened from */
    readonly path: string,
    private readonly files: readonly SafetensorsFile[],
    private readonly index: ReadonlyMap<string, SafetensorsFile>,
  ) {}

  /** The tensors' names, in the order of the file or of the index. */
  names(): string[] {
    return [...this.index.keys()]
  }

  /** Whether a tensor of this name is there. */
  has(name: string): boolean {
    return this.index.has(name)
  }

  /** The strings that a file's writer left in it (`__metadata__`), of all files together. */
  get metadata(): Record<string, string> {
    return Object.assign({}, ...this.files.map((f) => f.header.metadata)) as Record<string, string>
  }

  /**
   * Where a tensor lies, its dtype and its shape.
   *
   * @throws SeqmixError ERR_CHECKPOINT where there is none of this name
   */
  info(name: string): TensorInfo {
    return this.fileOf(name).header.tensors.get(name)!
  }

  /**
   * Reads one tensor.
   *
   * @returns its dtype, its shape and its values (float16 and bfloat16 as bits in a Uint16Array, int64 as a BigInt64Array)
   * @throws SeqmixError ERR_CHECKPOINT where there is none of this name or the file has changed under us;
   *   ERR_UNSUPPORTED for a dtype other than F32, F16, BF16, I32, I64 and BOOL
   */
  async read(name: string): Promise<StoredTensor> {
    return this.fileOf(name).read(this.info(name))
  }

  /**
   * Reads one floating-point tensor as it is stored.
   *
   * @throws what {@link read} throws; ERR_UNSUPPORTED for a tensor of integers
   */
  async readFloat(name: string): Promise<StoredTensor & { dtype: FloatDType }> {
    const stored = await this.read(name)
    if (isFloat(stored.dtype)) return { ...stored, dtype: stored.dtype }
    throw new SeqmixError(
      'ERR_UNSUPPORTED',
      `${this.info(name).file}: ${name}: expected F32, F16 or BF16, got ${stored.dtype}`,
    )
  }

  /**
   * Reads one floating-point tensor and widens it to float32, which is exact.
   *
   * @throws what {@link readFloat} throws
   */
  async readFloat32(name: string): Promise<{ shape: readonly number[]; data: Float32Array }> {
    const { dtype, shape, data } = await this.readFloat(name)
    return { shape, data: toFloat32(data as Float32Array | Uint16Array, dtype) }
  }

  /** Closes the files. A second call does nothing. */
  async close(): Promise<void> {
    await Promise.all(this.files.map((f) => f.close()))
  }

  private fileOf(name: string): SafetensorsFile {
    const file = this.index.get(name)
    if (!file) throw damaged(this.path, `${name}: no tensor of this name`)
    return file
  }
}

const SINGLE = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'

/**
 * Opens a checkpoint and checks its headers.
 *
 * @param path a directory with `model.safetensors` or `model.safetensors.index.json` in it, a safetensors file, or an
 *   index (`*.json`) whose shards lie beside it
 * @throws SeqmixError ERR_CHECKPOINT that says the file, the tensor and the byte where something is missing or damaged
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const kind = await kindOf(path)
  if (kind === undefined) throw damaged(path, 'no such file or directory')
  if (kind === 'file') return path.endsWith('.json') ? openSharded(path, path) : openSingle(path, path)
  if ((await kindOf(join(path, SINGLE))) === 'file') return openSingle(path, join(path, SINGLE))
  if ((await kindOf(join(path, INDEX))) === 'file') return openSharded(path, join(path, INDEX))
  const pickled =
    (await kindOf(join(path, 'pytorch_model.bin'))) ?? (await kindOf(join(path, 'pytorch_model.bin.index.json')))
  const hint = pickled ? '; pytorch_model.bin is not read: convert it to safetensors' : ''
  throw damaged(path, `expected ${SINGLE} or ${INDEX} in it${hint}`)
}

async function kindOf(path: string): Promise<'file' | 'directory' | undefined> {
  try {
    return (await stat(path)).isDirectory() ? 'directory' : 'file'
  } catch {
    return undefined
  }
}

async function openSingle(path: string, file: string): Promise<Checkpoint> {
  const opened = await SafetensorsFile.open(file)
  return new Checkpoint(path, [opened], new Map([...opened.header.tensors.keys()].map((name) => [name, opened])))
}

async function openSharded(path: string, indexFile: string): Promise<Checkpoint> {
  const weightMap = await readIndex(indexFile)
  const shards = new Map<string, SafetensorsFile>()
  const index = new Map<string, SafetensorsFile>()
  try {
    for (const [name, shardName] of weightMap) {
      let shard = shards.get(shardName)
      if (!shard) {
        const file = join(dirname(indexFile), shardName)
        if ((await kindOf(file)) !== 'file') throw damaged(indexFile, `${name}: its shard ${shardName} is missing`)
        shard = await SafetensorsFile.open(file)
        shards.set(shardName, shard)
      }
      if (!shard.header.tensors.has(name)) {
        throw damaged(shard.path, `${name}: not in this shard, where ${basename(indexFile)} promises it`)
      }
      index.set(name, shard)
    }
  } catch (error) {
    await Promise.all([...shards.values()].map((s) => s.close()))
    throw error
  }
  return new Checkpoint(path, [...shards.values()], index)
}

async function readIndex(file: string): Promise<[string, string][]> {
  let value: unknown
  try {
    const text = await readFile(file, 'utf8')
    value = JSON.parse(text)
    const duplicate = findDuplicateKey(text)
    if (duplicate) throw damaged(file, `${duplicate.key}: said twice, again at character ${duplicate.position}`)
  } catch (cause) {
    if (cause instanceof SeqmixError) throw cause
    throw damaged(file, `cannot be read as JSON: ${(cause as Error).message}`, cause)
  }
  const map = (value as { weight_map?: unknown } | null)?.weight_map
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw damaged(file, 'weight_map: expected an object from tensor names to file names')
  }
  for (const [name, shard] of Object.entries(map)) {
    // A shard lies beside its index: a path that leads elsewhere is not one.
    if (
      typeof shard !== 'string' ||
      shard === '' ||
      basename(shard) !== shard ||
      shard === '..' ||
      shard.includes('\\')
    ) {
      throw damaged(file, `${name}: expected the name of a file beside the index, got ${JSON.stringify(shard)}`)
    }
  }
  return Object.entries(map as Record<string, string>)
}
