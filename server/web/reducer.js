// States of a run after each step: state(k) = nearest stored state + changes.
// Pure: uses no document, clock or network. Records are those of the trajectory route.

const KEEP_EVERY = 32; // frames between stored states
const MOST_POSITIONS = 65536;

export const OPS = ["", "unmask", "refine", "remask"];
const NONE = new Map();

/** One canvas. A frame is its state after a step; frame 0 is the sample from the prior. */
export class Track {
  constructor(choice, mask) {
    const { index, positions, editable } = choice;
    if (!Number.isInteger(positions) || positions < 1 || positions > MOST_POSITIONS) {
      throw new Error("a choice must say how many positions its canvas has");
    }
    Object.assign(this, { index, positions, mask, seed: choice.seed });
    this.editable = new Uint8Array(positions);
    for (const [first, behind] of editable ?? []) this.editable.fill(1, first, behind);
    this.frames = [];
    this.histories = Array.from({ length: positions }, () => []);
    this.kept = [];
    this.last = null;
    this.guessed = false;
  }

  get length() {
    return this.frames.length;
  }

  /** Editable positions. */
  get written() {
    return this.editable.reduce((sum, one) => sum + one, 0);
  }

  /** Append the next step record. */
  append(record) {
    const frame = this.frames.length;
    const { snapshot } = record;
    if (frame === 0 && !snapshot) throw new Error("the first step of a choice has no snapshot");
    const before = this.frames[frame - 1];
    const counts = { unmask: 0, refine: 0, remask: 0 };
    const state = frame ? this.last : blank(this.positions);
    for (const change of record.changes) {
      this.check(change);
      write(state, change, frame);
      counts[change.op] += 1;
      this.histories[change.pos].push({ ...change, step: record.step, final: record.final, frame });
    }
    if (snapshot) {
      if (snapshot.ids?.length !== this.positions || snapshot.texts?.length !== this.positions) {
        throw new Error("a snapshot has another length than the canvas");
      }
      state.ids.set(snapshot.ids);
      state.texts = snapshot.texts.map(String);
      state.parts.fill(null);
      for (const [at, bytes] of Object.entries(snapshot.bytes ?? {})) state.parts[at] = bytes;
    }
    const guesses = guessesOf(record.guesses, this.positions);
    this.guessed ||= guesses.size > 0;
    this.frames.push({
      guesses,
      step: record.step,
      steps: record.steps,
      final: Boolean(record.final),
      masked: record.masked,
      elapsed: record.elapsed_ms,
      block: record.block,
      changes: record.changes,
      unmasked: (before?.unmasked ?? 0) + counts.unmask,
      refined: (before?.refined ?? 0) + counts.refine,
      remasked: (before?.remasked ?? 0) + counts.remask,
    });
    if (frame % KEEP_EVERY === 0) this.kept.push(copied(state));
    this.last = state;
  }

  check({ pos, op, id, conf, bytes }) {
    if (!Number.isInteger(pos) || pos < 0 || pos >= this.positions) {
      throw new Error(`a change names position ${pos} of ${this.positions}`);
    }
    if (!OPS.includes(op) || !op) throw new Error(`a change is called ${op}`);
    if (!Number.isInteger(id) || typeof conf !== "number") throw new Error("a change has no token");
    if (bytes !== undefined && !Array.isArray(bytes)) throw new Error("the bytes of a change are no list");
  }

  /**
   * The canvas of a frame: ids, texts, bytes of tokens that are parts of a character (else null), and
   * for the last change of each position its confidence, its op (index in OPS) and its frame, 0 if
   * there was none; `guesses` maps masks to {id, text, conf} where the step had one. Before the first record all that may be written is masked. The caller may keep
   * the object.
   */
  state(k) {
    if (this.frames.length === 0) return { ...blank(this.positions), ids: new Int32Array(this.positions).fill(this.mask ?? -1), guesses: NONE };
    const frame = Math.max(0, Math.min(k, this.frames.length - 1));
    const start = Math.floor(frame / KEEP_EVERY);
    const state = copied(this.kept[start]);
    for (let i = start * KEEP_EVERY + 1; i <= frame; i += 1) {
      for (const change of this.frames[i].changes) write(state, change, i);
    }
    state.guesses = this.frames[frame].guesses;
    return state;
  }
}

/** What a step's masks would have become, by position. */
function guessesOf(given, positions) {
  if (given === undefined || given === null) return NONE;
  const { pos, ids, texts, conf } = given;
  if (![pos, ids, texts, conf].every((one) => Array.isArray(one) && one.length === pos.length)) {
    throw new Error("the lists of guesses have different lengths");
  }
  if (!pos.every((at) => Number.isInteger(at) && at >= 0 && at < positions)) throw new Error("a guess is outside the canvas");
  return new Map(pos.map((at, i) => [at, { id: ids[i], text: String(texts[i]), conf: Number(conf[i]) }]));
}

function blank(positions) {
  return {
    ids: new Int32Array(positions),
    texts: new Array(positions).fill(""),
    parts: new Array(positions).fill(null),
    confs: new Float32Array(positions),
    wrote: new Int32Array(positions),
    ops: new Uint8Array(positions),
  };
}

function copied(state) {
  return {
    ids: state.ids.slice(),
    texts: state.texts.slice(),
    parts: state.parts.slice(),
    confs: state.confs.slice(),
    wrote: state.wrote.slice(),
    ops: state.ops.slice(),
  };
}

function write(state, change, frame) {
  state.ids[change.pos] = change.id;
  state.texts[change.pos] = String(change.text);
  state.parts[change.pos] = change.bytes ?? null;
  state.confs[change.pos] = change.conf;
  state.wrote[change.pos] = frame;
  state.ops[change.pos] = OPS.indexOf(change.op);
}

/** Check that the positions of a canvas fill a grid of pixels, or of squares of pixels. */
function checkGrid({ width, height, channels, tokens }, positions) {
  const planes = tokens === "bytes" ? channels : 1;
  const scale = Math.sqrt((width * height * planes) / positions);
  if (!(Number.isInteger(width / scale) && Number.isInteger(height / scale) && width * height < 2 ** 24)) {
    throw new Error("the images have another size than their canvas");
  }
}

/** A trajectory, complete or up to its latest record. */
export class Run {
  constructor() {
    this.records = [];
    this.created = null;
    this.tracks = [];
    this.completed = null;
    this.failed = null;
    this.cut = false;
  }

  /** A complete recording; throws an Error with the reason if it is invalid. */
  static from(records) {
    if (!Array.isArray(records) || records.length === 0) throw new Error("there are no records");
    const run = new Run();
    records.forEach((record, i) => {
      try {
        run.append(record);
      } catch (error) {
        throw new Error(`record ${i}: ${error.message}`);
      }
    });
    run.cut = !run.ended;
    return run;
  }

  append(record) {
    const { event, data } = record ?? {};
    if (typeof data !== "object" || data === null) throw new Error("is not a record");
    if ((event === "diffusion.created") !== (this.created === null)) {
      throw new Error(this.created ? "is a second beginning" : "is not diffusion.created");
    }
    if (event === "diffusion.created") {
      this.tracks = data.choices.map((choice) => new Track(choice, data.mask?.id ?? null));
      if (data.image) this.tracks.forEach((track) => checkGrid(data.image, track.positions));
      this.created = data;
    } else if (event === "diffusion.step") {
      const track = this.tracks[data.choice];
      if (!track) throw new Error(`there is no choice ${data.choice}`);
      track.append(data);
    } else if (event === "diffusion.completed") {
      this.completed = data;
    } else if (event === "diffusion.failed") {
      this.failed = data;
    }
    this.records.push({ event, id: record.id, data });
  }

  /** Note that no records follow. */
  get ended() {
    return this.completed !== null || this.failed !== null || this.cut;
  }

  /** Frames of the longest choice so far. */
  get length() {
    return Math.max(0, ...this.tracks.map((track) => track.length));
  }

  /** Frames that every choice has so far; of a run that has ended, those of the longest. */
  get ready() {
    return this.ended ? this.length : Math.min(...this.tracks.map((track) => track.length), this.length);
  }

  /** Expected number of frames. */
  get expected() {
    if (this.ended) return Math.max(1, this.length);
    const steps = this.tracks.find((track) => track.length)?.frames[0].steps ?? this.created?.request?.steps ?? 1;
    return Math.max(this.length, steps + 1);
  }

  /** Whether any step says what its masks would have become. */
  get guesses() {
    return this.tracks.some(({ guessed }) => guessed);
  }

  /** The grid of pixels; null for text. */
  get image() {
    return this.created?.image ?? null;
  }

  /** Ids that end a text. */
  get ends() {
    return this.created?.ends ?? [];
  }
}
