//! Which indexes of a clone are not checked: those whose order somebody else's code decides.
//!
//! The check of a B-tree compares its keys by the index's operator class. Where that is not PostgreSQL's own, an extension or
//! the monitor's owner has written it: its library may be missing here, it may fail, write without end or give another
//! answer each time, and none of that says anything about the data. So such an index is left out and named, instead of
//! being judged. The same holds where PostgreSQL's own operator class asks the class of another type: for arrays, rows and
//! ranges.

/// Indexes that are named in a result.
const NAMED: usize = 10;
/// Indexes that are left out one by one, by the bytes of their patterns: what a command line takes.
const PATTERNS_MAX: usize = 64 * 1024;

/// The question for a database's indexes whose order is not PostgreSQL's own. A row for each of schema, index, operator class
/// and extension: no name has the byte that ends a row, and any may have what divides columns.
///
/// Objects that `initdb` makes have numbers below 16384 (`FirstNormalObjectId`). A type without operator class of its own
/// takes that of the type which it is stored like, unless somebody has made a default one for it. Functions that were put
/// into a class or family of PostgreSQL's count as well.
pub const QUESTION: &str = "\
with recursive own (opclass) as (
    select c.oid from pg_catalog.pg_opclass as c
    where c.opcmethod = 403 and (c.oid >= 16384 or exists (
        select from pg_catalog.pg_amproc as p
        where p.amprocfamily = c.opcfamily and p.amproclefttype = c.opcintype and p.amproc >= 16384))
), keys (index, opclass, type) as (
    select i.indexrelid, c.oid, a.atttypid
    from pg_catalog.pg_index as i
    join pg_catalog.pg_class as r on r.oid = i.indexrelid and r.relam = 403 and r.relkind = 'i'
    cross join lateral pg_catalog.generate_series(0, i.indnkeyatts - 1) as k (at)
    join pg_catalog.pg_opclass as c on c.oid = i.indclass[k.at]
    join pg_catalog.pg_attribute as a on a.attrelid = i.indexrelid and a.attnum = k.at + 1
), parts (index, opclass, type) as (
    select index, opclass, type from keys
    where opclass in (
        select oid from pg_catalog.pg_opclass where opcintype in (2277, 2249, 3831, 4537))
    union
    select p.index, p.opclass, n.type
    from parts as p
    join pg_catalog.pg_type as t on t.oid = p.type
    cross join lateral (
        select t.typelem where t.typelem <> 0 and t.typcategory = 'A'
        union all select t.typbasetype where t.typbasetype <> 0
        union all select a.atttypid from pg_catalog.pg_attribute as a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        union all select r.rngsubtype from pg_catalog.pg_range as r where r.rngtypid = t.oid
        union all select r.rngtypid from pg_catalog.pg_range as r where r.rngmultitypid = t.oid
    ) as n (type)
), foreign_ (index, opclass) as (
    select index, opclass from keys where opclass in (select opclass from own)
    union
    select p.index, coalesce(c.oid, p.opclass)
    from parts as p
    join pg_catalog.pg_type as t on t.oid = p.type
    left join pg_catalog.pg_opclass as c on c.opcmethod = 403 and c.opcdefault and c.opcintype = t.oid
    left join pg_catalog.pg_range as r on r.rngtypid = t.oid
    where c.oid in (select opclass from own) or r.rngsubopc in (select opclass from own)
        or (t.oid >= 16384 and t.typtype = 'b' and not (t.typelem <> 0 and t.typcategory = 'A'))
)
select f.value from (
    select n.nspname, r.relname, pg_catalog.min(c.opcname::pg_catalog.text), pg_catalog.min(e.extname::pg_catalog.text)
    from foreign_ as f
    join pg_catalog.pg_class as r on r.oid = f.index
    join pg_catalog.pg_namespace as n on n.oid = r.relnamespace
    join pg_catalog.pg_opclass as c on c.oid = f.opclass
    left join pg_catalog.pg_depend as d
        on d.classid = 2616 and d.objid = c.oid and d.refclassid = 3079 and d.deptype = 'e'
    left join pg_catalog.pg_extension as e on e.oid = d.refobjid
    group by n.nspname, r.relname
) as i (schema, index, opclass, extension)
cross join lateral (values
    (1, i.schema::pg_catalog.text), (2, i.index::pg_catalog.text), (3, i.opclass), (4, i.extension)
) as f (column_, value)
order by i.schema, i.index, f.column_";

/// An index that is not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    database: String,
    schema: String,
    name: String,
    class: String,
    extension: Option<String>,
}

/// Reads the answer to [`QUESTION`]. `None`: it is not one.
pub fn parse(database: &str, answer: &str) -> Option<Vec<Index>> {
    let values: Vec<&str> = answer.split_terminator('\0').collect();
    let rows = values.chunks(4).map(|row| match row {
        [schema, name, class, extension] => Some(Index {
            database: database.to_owned(),
            schema: (*schema).to_owned(),
            name: (*name).to_owned(),
            class: (*class).to_owned(),
            extension: (!extension.is_empty()).then(|| (*extension).to_owned()),
        }),
        _ => None,
    });
    rows.collect()
}

/// Arguments of `pg_amcheck` that leave these indexes out; `None`: there are too many, or a name is not text.
pub fn left_out(indexes: &[Index]) -> Option<Vec<String>> {
    let mut bytes = 0_usize;
    let patterns = indexes.iter().map(|Index { database, schema, name, .. }| {
        let pattern = [database, schema, name].map(|part| quoted(part)).join(".");
        bytes = bytes.saturating_add(pattern.len());
        let is_text = !pattern.contains(char::REPLACEMENT_CHARACTER);
        (is_text && bytes <= PATTERNS_MAX).then(|| format!("--exclude-index={pattern}"))
    });
    patterns.collect()
}

/// A name in a pattern: within quotes every letter stands for itself (documentation, "Patterns").
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What is said of those that are left out, as sentences.
pub fn limits(indexes: &[Index]) -> Vec<String> {
    let named = indexes.iter().take(NAMED).map(|index| {
        let of = match &index.extension {
            Some(extension) => format!("of extension {extension}"),
            None => "that is not PostgreSQL's".into(),
        };
        let Index { database, schema, name, class, .. } = index;
        format!("Not checked: index {schema}.{name} in database {database}, which uses operator class {class} {of}.")
    });
    let mut said: Vec<String> = named.collect();
    if indexes.len() > NAMED {
        said.push(format!("Not checked: {} more such indexes.", indexes.len() - NAMED));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_named_whatever_its_name() {
        let answer = "public\0a\"b|c\0citext_ops\0citext\0s\0i\nj\0mine\0\0";
        let indexes = parse("d", answer).unwrap();
        assert_eq!(
            left_out(&indexes).unwrap(),
            ["--exclude-index=\"d\".\"public\".\"a\"\"b|c\"", "--exclude-index=\"d\".\"s\".\"i\nj\""]
        );
        let said = limits(&indexes);
        assert!(said[0].contains("uses operator class citext_ops of extension citext."), "{said:?}");
        assert!(said[1].contains("uses operator class mine that is not PostgreSQL's."), "{said:?}");
        assert_eq!(parse("d", ""), Some(Vec::new()));
        assert_eq!(parse("d", "public\0a\0"), None);
    }

    #[test]
    fn too_many_and_names_that_are_not_text_cannot_be_left_out_one_by_one() {
        let index = parse("d", "s\0i\0c\0\0").unwrap().remove(0);
        assert_eq!(left_out(&vec![index.clone(); 10_000]), None);
        assert_eq!(limits(&vec![index.clone(); 10_000]).len(), NAMED + 1);
        assert_eq!(left_out(&[Index { name: "\u{fffd}".into(), ..index }]), None);
    }
}
