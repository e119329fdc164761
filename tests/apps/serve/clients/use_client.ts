// Uses the types that openapi-typescript generated from the description of a server, with openapi-fetch.
import { openAsBlob, readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Schemas = components["schemas"];
const [url, photo] = process.argv.slice(2) as [string, string];
const client = createClient<paths>({ baseUrl: url });
const image = readFileSync(photo).toString("base64");

function check(condition: unknown, text: string): asserts condition {
  if (!condition) throw new Error(text);
}

const { data: single } = await client.POST("/v1/caption", { body: { image, beams: 2 } });
check(single && !Array.isArray(single), "a record");
const caption: Schemas["CaptionRecord"] = single;
console.log(caption.schema);

const { data: several } = await client.POST("/v1/caption", { body: { images: [image, "bm8="], beams: 1 } });
check(Array.isArray(several), "a list");
console.log(...several.map((item: Schemas["CaptionItem"]) => ("error" in item ? item.error.type : item.schema)));

const form = new FormData();
form.append("image", await openAsBlob(photo), "photo.png");
form.append("texts", "a cat");
form.append("texts", "a dog, asleep");
const { data: matches } = await client.POST("/v1/match", { body: form as unknown as Schemas["MatchBodyForm"] });
check(Array.isArray(matches), "a list");
console.log(...matches.map((item) => ("error" in item ? item.key : item.text)));

const { data: answer } = await client.POST("/v1/answer", { body: { image, question: "what?", answers: ["yes", "no"] } });
check(answer && !Array.isArray(answer), "a record");
console.log(answer.mode);

const { data: embedding } = await client.POST("/v1/embed", { body: { kind: "text", text: "a cat" } });
check(embedding && !Array.isArray(embedding), "a record");
const vector: number[] = embedding.vector;
console.log(embedding.kind, vector.length === embedding.dim);

const { data: heat } = await client.POST("/v1/explain", { body: { image, text: "a cat" } });
check(heat && !Array.isArray(heat), "a record");
const first: number | undefined = heat.maps?.[0]?.[0]?.[0];
console.log(typeof first, heat.overlays?.length);

const { data: models } = await client.GET("/v1/models");
console.log(models?.map((model) => model.name).join(" "));

const { error } = await client.POST("/v1/caption", { body: { image: "bm8=" } });
check(error, "an error");
console.log(error.error.code);
