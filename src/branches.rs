//! A conversation that may be tried in several ways: named branches, each a whole conversation of its own.
//!
//! Branches share no turns: text is small. What is dear, the cache, is shared by the sessions' blocks.
use lapwing_models::{Class, Error, Result};

use crate::conversation::Conversation;
use crate::text::{check_name, nearest};

/// One way that a conversation took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Unique among the branches; see [`check_name`].
    pub name: String,
    /// Its turns.
    pub conversation: Conversation,
}

/// All branches of a conversation, one of which is the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branches {
    /// In the order of their making; never empty.
    all: Vec<Branch>,
    current: usize,
}

impl Default for Branches {
    fn default() -> Self {
        Self {
            all: vec![Branch { name: FIRST.to_owned(), conversation: Conversation::default() }],
            current: 0,
        }
    }
}

/// Name of the branch that every conversation begins with.
pub const FIRST: &str = "main";
/// Most branches: their names are there to be read.
pub const MOST: usize = 1000;

impl Branches {
    /// These branches with the one of this name current.
    ///
    /// # Errors
    /// A usage error on names that are not allowed or occur twice, too many branches, or no such current one.
    pub fn new(branches: Vec<Branch>, current: &str) -> Result<Self> {
        let mut all = Self { all: Vec::new(), current: 0 };
        for branch in branches {
            all.check_new(&branch.name)?;
            all.all.push(branch);
        }
        all.goto(current)?;
        Ok(all)
    }

    /// The current branch.
    pub fn current(&self) -> &Branch {
        &self.all[self.current]
    }

    /// The current conversation.
    pub fn conversation(&self) -> &Conversation {
        &self.current().conversation
    }

    /// The current conversation, to be changed.
    pub fn conversation_mut(&mut self) -> &mut Conversation {
        &mut self.all[self.current].conversation
    }

    /// All branches, in the order of their making.
    pub fn all(&self) -> &[Branch] {
        &self.all
    }

    /// All tokens that models produced.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let turns = self.all.iter().flat_map(|branch| branch.conversation.turns());
        turns.filter_map(|turn| turn.ids.as_deref()).flatten().copied()
    }

    /// Forgets them: see [`Conversation::forget_ids`].
    pub fn forget_ids(&mut self) {
        self.all.iter_mut().for_each(|branch| branch.conversation.forget_ids());
    }

    /// Makes a branch that begins as a copy of the current one, and goes there.
    ///
    /// # Errors
    /// A usage error on a name that is taken or not allowed.
    pub fn fork(&mut self, name: &str) -> Result<()> {
        self.check_new(name)?;
        self.all.push(Branch { name: name.to_owned(), conversation: self.conversation().clone() });
        self.current = self.all.len() - 1;
        Ok(())
    }

    /// Goes to the branch of this name.
    ///
    /// # Errors
    /// A usage error when there is none.
    pub fn goto(&mut self, name: &str) -> Result<()> {
        match self.all.iter().position(|branch| branch.name == name) {
            Some(at) => self.current = at,
            None => {
                let names = || self.all.iter().map(|branch| branch.name.as_str());
                let advice = match nearest(name, names()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("the branches are {}", names().collect::<Vec<_>>().join(", ")),
                };
                return Err(Error::new(Class::Usage, format!("no branch named {name}")).advice(advice));
            }
        }
        Ok(())
    }

    fn check_new(&self, name: &str) -> Result<()> {
        check_name("branch", name)?;
        if self.all.iter().any(|branch| branch.name == name) {
            return Err(Error::new(Class::Usage, format!("there is a branch named {name} already"))
                .advice("choose another name, or go to that one"));
        }
        if self.all.len() >= MOST {
            return Err(Error::new(Class::Usage, "too many branches")
                .expected_got(format!("at most {MOST}"), self.all.len() + 1));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_leaves_the_branch_it_came_from_alone() {
        let mut branches = Branches::default();
        branches.conversation_mut().say("one");
        branches.conversation_mut().answer("two", Some(vec![2]));
        branches.fork("idea").unwrap();
        assert_eq!(branches.conversation().turns().len(), 2);
        branches.conversation_mut().say("three");
        branches.goto("main").unwrap();
        assert_eq!(branches.conversation().turns().len(), 2);
        branches.goto("idea").unwrap();
        assert_eq!(branches.conversation().turns()[2].text, "three");
        let again = Branches::new(branches.all().to_vec(), "idea").unwrap();
        assert_eq!(again, branches);
    }

    #[test]
    fn names_are_checked() {
        let mut branches = Branches::default();
        for bad in ["", "a b", "a/b", ".hidden", "main", "x\u{1b}", &"x".repeat(65)] {
            let error = branches.fork(bad).unwrap_err();
            assert_eq!(error.class, Class::Usage, "{bad:?}");
        }
        branches.fork("naïve-2.漢").unwrap();
        assert!(branches.goto("mian").unwrap_err().to_string().contains("did you mean main?"));
        assert!(branches.goto("zzzz").unwrap_err().to_string().contains("the branches are main, naïve"));
        assert_eq!(branches.current().name, "naïve-2.漢");
        let twice = vec![branches.current().clone(), branches.current().clone()];
        assert!(Branches::new(twice, "naïve-2.漢").is_err());
        assert!(Branches::new(Vec::new(), "main").is_err());
    }
}
